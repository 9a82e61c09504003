// What the page shows of the chosen digit: q(z|x), both terms of the loss, draws of z.

function showInput() {
  const {x, q, index} = state, {y} = vae.decode(q.mu);
  putDigit($('x').getContext('2d'), x);
  putDigit($('x-hat').getContext('2d'), y);
  putDifference($('difference').getContext('2d'), x, y);
  // while somebody types there, it is not written over
  if (index === null || document.activeElement !== $('index')) $('index').value = index ?? '';
  const terms = measure(x, q);
  for (const [id, value] of [['rec', terms.rec_loss], ['kl', terms.latent_loss], ['total', terms.loss]]) {
    $(id).textContent = fixed(value, 1);
  }
  $('rec-bar').style.width = `${100 * terms.rec_loss / terms.loss}%`;
  $('kl-bar').style.width = `${100 * terms.latent_loss / terms.loss}%`;
  showQ(q);
  showSample();
}

// The two terms of the loss, as get_loss_func of net.py has them, with C = 1.
let noise = null;
function measure(x, q) {
  noise ??= Array.from({length: DRAWS}, () => gaussian(vae.Z));         // the same for all digits
  const rec_loss = noise.reduce((sum, eps) =>
    sum + bernoulli_nll(x, vae.decode(reparameterize(q, eps)).h3) / DRAWS, 0);
  const latent_loss = kl_divergence(q).reduce((sum, value) => sum + value, 0);
  return {rec_loss, latent_loss, loss: rec_loss + latent_loss};
}

function showSample() {
  const z = reparameterize(state.q, state.eps);
  putDigit($('sample').getContext('2d'), vae.decode(z).y);
  plane.drawClose($('close'), state);
  $('eps').textContent = `ε = ${vector(state.eps)}\nz = ${vector(z)}`;
}

function putDifference(context, x, y) {
  const image = new ImageData(28, 28), [red, blue] = ['--red', '--blue'].map(channels);
  x.forEach((value, i) => {
    const share = Math.abs(y[i] - value), mark = y[i] > value ? red : blue;
    image.data.set([...mark.map((channel) => share * channel), 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}

function channels(name) {
  return color(name).match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
}

// mu, sigma and the KL divergence of each dimension that is used, in the order of the sliders.
function showQ(q) {
  const kl = kl_divergence(q), most = Math.max(...kl, USED), {order, unused} = byUse();
  const table = $('q');
  while (table.rows.length > 1) table.deleteRow(1);
  for (const j of order.filter((k) => !unused.includes(k))) {
    const row = table.insertRow(), sigma = Math.exp(q.ln_var[j] / 2);
    for (const text of [`z${subscript(j + 1)}`, fixed(q.mu[j]), fixed(sigma, 3), fixed(kl[j])]) {
      row.insertCell().textContent = text;
    }
    const bar = row.insertCell();
    bar.className = 'wide';
    bar.innerHTML = '<div class="bar"><i class="second"></i></div>';
    bar.querySelector('i').style.width = `${Math.max(0, 100 * kl[j] / most)}%`;
  }
  const rest = unused.reduce((sum, j) => sum + kl[j], 0);
  $('others').textContent = unused.length
    ? `The other ${unused.length} dimensions, where q(z|x) is next to the prior: ${fixed(rest)} in all.` : '';
}

// The dimensions, sorted by their KL divergence if they are more than two; and the unused ones, unless
// that is all of them.
function byUse() {
  const order = run.kl.map((_, j) => j);
  if (vae.Z > 2) order.sort((a, b) => run.kl[b] - run.kl[a]);
  const unused = order.filter((j) => run.kl[j] < USED);
  return {order, unused: unused.length > 2 && unused.length < order.length ? unused : []};
}
