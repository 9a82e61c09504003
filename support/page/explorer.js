// The page: what is chosen, and what each part shows of it.

const $ = (id) => document.getElementById(id);
const fixed = (value, digits = 2) => value.toFixed(digits).replace(/^-(0\.?0*)$/, '$1').replace('-', '−');
const DRAWS = 10;                       // of z, of which the reconstruction error is the mean
const MOST_DRAWN = 60;                  // red dots in the plane
const USED = 0.01;                      // nats: a dimension of a smaller KL divergence is unused

let run, vae, plane, pad, codes, pixels, walkSheet, priorSheet;       // set at the start
const state = {
  z: null,              // the latent variable at hand, (Z), whose digit stands large
  hover: null,          // another one, while the pointer is over the plane
  x: null,              // the digit that is in, (D), and what the encoder makes of it:
  q: null,
  index: 0,             // its place among the test digits, or null where it was drawn by hand
  eps: null,            // drawn last, (Z)
  drawn: [],            // z drawn from q(z|x)
  walk: null,           // its ends: two z
  playing: 0,           // the time at which t was 0
  node: 'z',            // of the graph
};

// Draw parts of the page, once a frame however often they are asked for.
const waiting = new Set();
function redraw(...parts) {
  if (!waiting.size) {
    requestAnimationFrame(() => {
      const now = [...waiting];
      waiting.clear();
      for (const part of now) part();
    });
  }
  for (const part of parts) waiting.add(part);
}

// What is chosen ---------------------------------------------------------------------------------

function setPoint(z) {
  [state.z, state.hover] = [Float32Array.from(z), null];
  plane.z = state.z;
  redraw(showFront, showPoint, showSliders, showLink);
}

function setDigit(x, index) {
  const q = vae.encode(x);
  Object.assign(state, {x, q, index, drawn: [], eps: gaussian(vae.Z)});
  plane.base = q.mu;
  setPoint(q.mu);
  redraw(showInput, showGraph);
  if (plane.map && vae.Z > 2) redraw(showBack);
}

function setTestDigit(index) {
  pad.clear(true);
  setDigit(Float32Array.from(pixels.subarray(784 * index, 784 * (index + 1)), (p) => p / 255), index);
}

function drawZ() {
  state.eps = gaussian(vae.Z);
  const z = reparameterize(state.q, state.eps);
  state.drawn = [...state.drawn.slice(1 - MOST_DRAWN), z];
  setPoint(z);
  redraw(showSample, showGraph);
}

function setAxes(axes) {
  plane.setAxes(axes);
  $('axes').value = axes === 'pca' ? 'pca' : 'pair';
  $('pair').hidden = axes === 'pca' || vae.Z < 3;
  if (axes !== 'pca' && vae.Z > 2) [$('axis-i').value, $('axis-j').value] = axes;
  redraw(showBack, showFront, showLink);
}

function setT(t) {
  $('t').value = t;
  const [from, to] = state.walk;
  setPoint(from.map((value, j) => (1 - t) * value + t * to[j]));
  $('t-value').textContent = fixed(t);
}

// What the plane and the digit beside it show ----------------------------------------------------

function showBack() { plane.drawBack(); }

function showFront() {
  plane.drawFront({...state, z: state.hover ?? state.z});
}

function showPoint() {
  const z = state.hover ?? state.z;
  putDigit($('digit').getContext('2d'), vae.decode(z).y);
  $('z').textContent = 'z = ' + vector(z);
  const radius = Math.hypot(...z), [u, v] = plane.project(z);
  $('where').textContent = 'p(x|z): the probability that each pixel is on.'
    + `\n|z| = ${fixed(radius)}${vae.Z > 2 ? `\nin the plane: ${vector([u, v])}` : ''}`;
}

function vector(values) {
  return `(${[...values].map((value) => fixed(value)).join(', ')})`;
}

function showLink() {
  clearTimeout(showLink.timer);
  showLink.timer = setTimeout(() => {
    const parts = [`z=${[...state.z].map((value) => +value.toFixed(4)).join(',')}`];
    if (state.index !== null) parts.push(`digit=${state.index}`);
    if (vae.Z > 2) parts.push(`axes=${plane.axes}`);
    history.replaceState(null, '', `#${parts.join('&')}`);
  }, 200);
}

// Take over what a link says, as far as it fits this run.
function readLink() {
  const link = new URLSearchParams(location.hash.slice(1)), Z = vae.Z;
  const axes = (link.get('axes') ?? '').split(',').map(Number);
  const possible = axes.length === 2 && axes[0] !== axes[1]
    && axes.every((j) => Number.isInteger(j) && j >= 0 && j < Z);
  setAxes(Z > 2 ? (possible ? axes : 'pca') : [0, Z - 1]);
  const index = Number(link.get('digit'));
  setTestDigit(Number.isInteger(index) && index >= 0 && index < codes.length ? index : 0);
  const z = (link.get('z') ?? '').split(',').map(Number);
  if (link.get('z') && z.length === Z && z.every(Number.isFinite)) setPoint(z);
}

// What the digit that is in shows ----------------------------------------------------------------

function showInput() {
  const {x, q, index} = state, {y} = vae.decode(q.mu);
  putDigit($('x').getContext('2d'), x);
  putDigit($('x-hat').getContext('2d'), y);
  putDifference($('difference').getContext('2d'), x, y);
  $('index').value = index ?? '';
  const terms = measure(x, q);
  for (const [id, value] of [['rec', terms.rec_loss], ['kl', terms.latent_loss], ['total', terms.loss]]) {
    $(id).textContent = fixed(value, 1);
  }
  $('rec-bar').style.width = `${100 * terms.rec_loss / terms.loss}%`;
  $('kl-bar').style.width = `${100 * terms.latent_loss / terms.loss}%`;
  $('q').textContent = `µ = ${vector(q.mu)}\nσ = ${vector(q.ln_var.map((l) => Math.exp(l / 2)))}`;
  drawBars($('kl-dims'), kl_divergence(q));
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

function drawBars(canvas, values) {
  const row = 15, width = 260, most = Math.max(...values, USED);
  const context = fitted(canvas, width, row * values.length);
  context.font = `11px ${FONT}`;
  context.textBaseline = 'middle';
  values.forEach((value, j) => {
    const y = row * (j + 0.5), length = Math.max(0, value) / most * (width - 80);
    context.fillStyle = color('--text');
    context.fillText(`z${subscript(j + 1)}`, 0, y);
    context.fillText(fixed(value), 34 + length, y);
    context.fillStyle = color('--blue');
    context.fillRect(30, y - 5, length, 10);
  });
}

// The walk, and the prior ----------------------------------------------------------------------

function showWalk() {
  const [from, to] = state.walk, n = 11;
  walkSheet.show(Array.from({length: n}, (_, i) =>
    from.map((value, j) => value + i / (n - 1) * (to[j] - value))), n);
  redraw(showFront);
}

function drawPrior() {
  priorSheet.zs = Array.from({length: 100}, () => gaussian(vae.Z));
  redraw(showPrior);
}

function showPrior() {
  priorSheet.show(priorSheet.zs, window.innerWidth < 700 ? 10 : 20);
}

function play(now) {
  if (!state.playing) return;
  const t = (now - state.playing) / 4000 % 2;                   // there in four seconds, and back
  setT(t < 1 ? t : 2 - t);
  requestAnimationFrame(play);
}

function stop() {
  state.playing = 0;
  $('play').setAttribute('aria-pressed', false);
  $('play').textContent = 'play';
}

// A slider for each dimension --------------------------------------------------------------------

function makeSliders() {
  const order = run.kl.map((_, j) => j).sort((a, b) => run.kl[b] - run.kl[a]);
  const most = Math.max(...run.kl, USED), unused = order.filter((j) => run.kl[j] < USED);
  for (const j of order) {
    const row = document.createElement('label');
    row.innerHTML = '<span></span><input type="range" min="-4" max="4" step="0.01"><output></output>'
      + '<span class="bar"><i></i></span><span></span>';
    row.children[0].textContent = `z${subscript(j + 1)}`;
    row.children[3].firstChild.style.width = `${100 * run.kl[j] / most}%`;
    row.children[4].textContent = fixed(run.kl[j], run.kl[j] < USED ? 4 : 2);
    row.children[1].dataset.dimension = j;
    row.children[1].addEventListener('input', (event) => {
      stop();
      setPoint(state.z.map((value, k) => (k === j ? Number(event.target.value) : value)));
    });
    const few = run.kl[j] < USED && unused.length > 2 && unused.length < order.length;
    (few ? $('unused').querySelector('div') : $('sliders')).append(row);
    $('unused').hidden &&= !few;
  }
  $('unused').querySelector('summary').textContent = `${unused.length} dimensions that are not used`;
}

function showSliders() {
  for (const slider of document.querySelectorAll('.sliders input')) {
    const value = (state.hover ?? state.z)[slider.dataset.dimension];
    slider.value = value;
    slider.nextSibling.textContent = fixed(value);
  }
}

// The run: settings and learning curves ----------------------------------------------------------

function showRun() {
  for (const [term, value] of run.settings) {
    const dt = document.createElement('dt'), dd = document.createElement('dd');
    [dt.textContent, dd.textContent] = [term, value];
    $('settings').append(dt, dd);
  }
  $('curves-figure').hidden = run.log.length < 3;
}

function showCurves() {
  if (run.log.length < 3) return;
  const rows = run.log.slice(1), width = Math.min(520, $('curves').parentNode.clientWidth), height = 260;
  const context = fitted($('curves'), width, height), all = rows.flatMap(([, a, b]) => [a, b]);
  const least = Math.min(...all), range = Math.max(...all) - least || 1;
  const x = (epoch) => 48 + (epoch - rows[0][0]) / (rows.at(-1)[0] - rows[0][0] || 1) * (width - 70);
  const y = (loss) => 12 + (1 - (loss - least) / range) * (height - 40);
  context.font = `11px ${FONT}`;
  context.strokeStyle = color('--line');
  for (let i = 0; i <= 4; i++) {
    const loss = least + i / 4 * range, epoch = Math.round(rows[0][0] + i / 4 * (rows.at(-1)[0] - rows[0][0]));
    context.beginPath();
    context.moveTo(48, y(loss));
    context.lineTo(width - 22, y(loss));
    context.stroke();
    context.fillStyle = color('--muted');
    context.textAlign = 'right';
    context.fillText(fixed(loss, 1), 42, y(loss) + 4);
    context.textAlign = 'center';
    context.fillText(epoch, x(epoch), height - 6);
  }
  for (const [column, name] of [[1, '--blue'], [2, '--red']]) {
    context.strokeStyle = color(name);
    context.lineWidth = 2;
    context.beginPath();
    for (const row of rows) context.lineTo(x(row[0]), y(row[column]));
    context.stroke();
  }
}

// The start --------------------------------------------------------------------------------------

function showAbout() {
  document.title = `${run.name}: explorer of the latent space`;
  $('about').textContent = `A VAE with ${vae.Z} latent dimension${vae.Z > 1 ? 's' : ''}, trained on `
    + `${run.settings[0][1]}${run.log.length ? ` for ${run.log.at(-1)[0]} epochs` : ''}.`;
  $('draws').textContent = DRAWS;
  $('kl-digits').textContent = run.kl_digits.toLocaleString('en');
  $('index').max = codes.length - 1;
  $('rest').textContent = vae.Z > 2 ? 'The plane is a section: where you move on it, the rest of z stays as it '
    + 'is in the code of the digit below, or at 0. Dots and ellipses are projected onto it.'
    : vae.Z === 1 ? 'With one dimension only the horizontal place matters; dots of a label stand in one row.' : '';
}

function makeLegend() {
  for (const label of run.classes) {
    const button = document.createElement('button');
    button.append(document.createElement('i'), label);
    button.firstChild.style.background = plane.colorOf(label);
    button.setAttribute('aria-pressed', true);
    button.addEventListener('click', () => {
      if (!plane.hidden.delete(label)) plane.hidden.add(label);
      button.setAttribute('aria-pressed', !plane.hidden.has(label));
      redraw(showBack);
    });
    $('legend').append(button);
  }
  $('all-classes').addEventListener('click', () => {
    plane.hidden.clear();
    for (const button of $('legend').children) button.setAttribute('aria-pressed', true);
    redraw(showBack);
  });
}

function makeAxes() {
  $('axes-label').hidden = vae.Z < 3;
  $('axes').append(new Option('principal components', 'pca'), new Option('two of z', 'pair'));
  const order = run.kl.map((_, j) => j).sort((a, b) => run.kl[b] - run.kl[a]);
  for (const select of [$('axis-i'), $('axis-j')]) {
    for (let j = 0; j < vae.Z; j++) select.append(new Option(j + 1, j));
    select.addEventListener('change', () => {
      const axes = [$('axis-i'), $('axis-j')].map((each) => Number(each.value));
      if (axes[0] === axes[1]) axes[select === $('axis-i') ? 1 : 0] = axes[0] ? 0 : 1;
      setAxes(axes);
    });
  }
  $('axes').addEventListener('change', () => setAxes($('axes').value === 'pca' ? 'pca' : order.slice(0, 2)));
}

function listen() {
  const on = (id, action, type = 'click') => $(id).addEventListener(type, action);
  on('map', () => {
    plane.map = !plane.map;
    $('map').setAttribute('aria-pressed', plane.map);
    redraw(showBack, showFront);
  });
  on('save', () => {
    const large = document.createElement('canvas'), link = document.createElement('a');
    large.width = large.height = 280;
    const context = large.getContext('2d');
    context.imageSmoothingEnabled = false;
    context.drawImage($('digit'), 0, 0, 280, 280);
    link.href = large.toDataURL('image/png');
    link.download = 'digit.png';
    link.click();
  });
  on('link', async () => {
    const done = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    $('link').textContent = done ? 'copied' : "it is in the address bar";
    setTimeout(() => { $('link').textContent = 'copy link'; }, 2000);
  });
  on('to-code', () => setPoint(state.q.mu));
  on('to-origin', () => {
    plane.base = new Float32Array(vae.Z);
    setPoint(plane.base);
    if (plane.map && vae.Z > 2) redraw(showBack);
  });
  for (const [id, erase] of [['brush', false], ['eraser', true]]) {
    on(id, () => {
      pad.erase = erase;
      $('brush').setAttribute('aria-pressed', !erase);
      $('eraser').setAttribute('aria-pressed', erase);
    });
  }
  on('undo', () => pad.undo());
  on('clear', () => pad.clear());
  on('index', () => {
    const index = Number($('index').value);
    if ($('index').value && Number.isInteger(index) && index >= 0 && index < codes.length) setTestDigit(index);
  }, 'input');
  on('random', () => setTestDigit(Math.floor(uniform() * codes.length)));
  on('draw-z', drawZ);
  on('from', () => { state.walk[0] = state.z; redraw(showWalk); });
  on('to', () => { state.walk[1] = state.z; redraw(showWalk); });
  on('t', () => { stop(); setT(Number($('t').value)); }, 'input');
  on('play', () => {
    if (state.playing) return stop();
    state.playing = performance.now() - 4000 * Number($('t').value);
    $('play').setAttribute('aria-pressed', true);
    $('play').textContent = 'stop';
    requestAnimationFrame(play);
  });
  on('sample-prior', drawPrior);
  window.addEventListener('hashchange', readLink);
  const repaint = () => redraw(showBack, showFront, showInput, showPrior, showGraph, showCurves);
  window.addEventListener('resize', repaint);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);
}

async function start() {
  run = JSON.parse($('run').textContent);
  const bytes = await unpack('weights');
  pixels = await unpack('pixels');
  const links = {};
  let at = 0;
  for (const {name, shape, scale} of run.arrays) {
    const n = shape.reduce((a, b) => a * b, 1), values = halves(bytes, at, n, scale);
    const [link, param] = name.split('/');
    if (param) (links[link] ??= {})[param] = values;
    else codes = Array.from({length: shape[0]}, (_, i) => values.subarray(i * shape[1], (i + 1) * shape[1]));
    at += n;
  }
  vae = new VAE(links, run.activation);
  plane = new Plane($('plane'), vae, codes, run.labels, run, {
    hover: (point) => {
      state.hover = plane.moved(vae.Z > 2 ? plane.base : state.z, vae.Z === 1 ? [point[0], 0] : point);
      redraw(showFront, showPoint, showSliders);
    },
    leave: () => {
      state.hover = null;
      redraw(showFront, showPoint, showSliders);
    },
    hold: (point) => {
      stop();
      setPoint(plane.moved(vae.Z > 2 ? plane.base : state.z, vae.Z === 1 ? [point[0], 0] : point));
    },
    pick: setTestDigit,
  });
  pad = new Pad($('pad'), (x) => (x ? setDigit(x, null) : setTestDigit(0)));
  walkSheet = new Sheet($('strip'), 'digits on the walk', (z, i) => { stop(); setT(i / 10); });
  priorSheet = new Sheet($('prior'), 'digits from the prior', (z) => { stop(); setPoint(z); });
  plane.base = new Float32Array(vae.Z);
  const first = (label) => codes[run.labels.indexOf(label)];
  state.walk = [first(run.classes[0]), first(run.classes[7] ?? run.classes.at(-1))];
  makeLegend();
  makeAxes();
  makeSliders();
  makeGraph();
  showAbout();
  showRun();
  listen();
  readLink();
  $('t-value').textContent = fixed(0);
  drawPrior();
  redraw(showBack, showWalk, showCurves);
}

document.addEventListener('DOMContentLoaded', () => start().catch((error) => {
  $('trouble').hidden = false;
  $('trouble').textContent = `The page cannot start: ${error.message}. It needs a browser of 2023 or later.`;
  throw error;
}));
