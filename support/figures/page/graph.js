// The computational graph: each variable with its shape, its numbers, its formula and its code.

// Each variable: its name in net.py, its column and row in the drawing, what it means, its formula,
// and which source lines of net.py compute it.
const NODES = [
  ['x', 2, 1, 'The digit: 784 pixels.', 'x ∈ [0, 1]⁷⁸⁴'],
  ['enc_h1', 2, 2, 'First hidden layer of the encoder.', 'enc_h1 = f(le1.W · x + le1.b)'],
  ['enc_h2', 2, 3, 'Second hidden layer of the encoder.',
    'enc_h2 = f(le2.W · enc_h1 + le2.b)'],
  ['z_mu', 2, 4, 'The mean of q(z|x): where in the latent space the digit lies.',
    'µ = le3_mu.W · enc_h2 + le3_mu.b'],
  ['z_ln_var', 1, 4, 'The logarithm of the variance of q(z|x): how sure the encoder is.',
    'log σ² = le3_ln_var.W · enc_h2 + le3_ln_var.b'],
  ['eps', 3, 4, 'Noise from outside. As z is computed from it, and not merely drawn, z has a '
    + 'derivative by µ and σ.', 'ε ~ N(0, I)', 'z'],
  ['z', 2, 5, 'The latent variable, drawn from q(z|x) by the reparameterization trick.', 'z = µ + ε·σ'],
  ['dec_h1', 2, 6, 'First hidden layer of the decoder.', 'dec_h1 = f(ld1.W · z + ld1.b)'],
  ['dec_h2', 2, 7, 'Second hidden layer of the decoder.',
    'dec_h2 = f(ld2.W · dec_h1 + ld2.b)'],
  ['dec_h3', 2, 8, 'The logits. Their sigmoid y, in the picture, is the probability that a pixel '
    + 'is on.', 'dec_h3 = ld3.W · dec_h2 + ld3.b,  y = 1 / (1 + exp(−dec_h3))'],
  ['reconstruction error', 2, 9, 'How badly the decoder predicts the digit from this one z. Its mean over '
    + 'z ~ q(z|x) is the first term of the loss.', '−log p(x|z) = −Σᵢ [xᵢ log yᵢ + (1 − xᵢ) log(1 − yᵢ)]'],
  ['latent loss', 1, 9, 'How far q(z|x) is from the prior p(z) = N(0, I): the second term of the loss.',
    'KL[q(z|x) ‖ p(z)] = ½ Σⱼ [µⱼ² + σⱼ² − log σⱼ² − 1]'],
  ['loss', 2, 10, 'The negative lower bound of log p(x), which training makes small.',
    'loss = −L(x, z),  L(x, z) = E[log p(x|z)] − KL[q(z|x) ‖ p(z)] ≤ log p(x)'],
];

const EDGES = [
  ['x', 'enc_h1'], ['enc_h1', 'enc_h2'], ['enc_h2', 'z_mu'], ['enc_h2', 'z_ln_var'], ['z_mu', 'z'],
  ['z_ln_var', 'z'], ['eps', 'z'], ['z', 'dec_h1'], ['dec_h1', 'dec_h2'], ['dec_h2', 'dec_h3'],
  ['dec_h3', 'reconstruction error'], ['x', 'reconstruction error'], ['z_mu', 'latent loss'],
  ['z_ln_var', 'latent loss'], ['reconstruction error', 'loss'], ['latent loss', 'loss'],
];

function nodeValues() {
  const {x, q, eps} = state, z = reparameterize(q, eps), decoded = vae.decode(z);
  const rec = bernoulli_nll(x, decoded.h3), latent = kl_divergence(q).reduce((a, b) => a + b, 0);
  return {
    x, enc_h1: q.h1, enc_h2: q.h2, z_mu: q.mu, z_ln_var: q.ln_var, eps, z, dec_h1: decoded.h1,
    dec_h2: decoded.h2, dec_h3: decoded.h3, 'reconstruction error': rec, 'latent loss': latent,
    loss: rec + latent,
  };
}

function makeGraph() {
  $('graph').append(document.createElement('canvas'));
  for (const [name, column, row] of NODES) {
    const button = document.createElement('button');
    button.dataset.node = name;
    button.style.gridArea = `${row} / ${column}`;
    button.append(document.createElement('b'), document.createElement('span'));
    button.firstChild.textContent = name;
    button.addEventListener('click', () => {
      state.node = name;
      redraw(showGraph);
    });
    $('graph').append(button);
  }
}

// Each edge goes down, from a variable to one that is computed from it.
function drawEdges() {
  const root = $('graph'), context = fitted(root.querySelector('canvas'), root.clientWidth, root.clientHeight);
  const button = (name) => root.querySelector(`[data-node="${name}"]`);
  context.strokeStyle = context.fillStyle = color('--muted');
  context.lineWidth = 1.3;
  for (const [a, b] of EDGES) {
    const from = button(a), to = button(b), around = a === 'x' && b !== 'enc_h1';
    const x = (each, share) => each.offsetLeft + each.offsetWidth * share;
    const middle = (each) => each.offsetTop + each.offsetHeight / 2;
    const end = around ? [x(to, 1) + 1, middle(to)] : [x(to, 0.5), to.offsetTop - 1];
    context.beginPath();
    if (around) {                               // past all others, on the right
      const right = root.clientWidth - 6;
      context.moveTo(x(from, 1), middle(from));
      context.arcTo(right, middle(from), right, middle(to), 14);
      context.arcTo(right, middle(to), ...end, 14);
      context.lineTo(...end);
    } else {
      const past = a === 'z_mu' && b !== 'z';   // past z, on its left
      const start = [x(from, past ? 0 : 0.5), past ? middle(from) : from.offsetTop + from.offsetHeight];
      const half = (start[1] + end[1]) / 2;
      context.moveTo(...start);
      context.bezierCurveTo(start[0] - (past ? 12 : 0), half, end[0], half, ...end);
    }
    context.stroke();
    context.beginPath();
    for (const [along, across] of [[0, 0], [8, -4], [8, 4]]) {
      context.lineTo(...(around ? [end[0] + along, end[1] + across] : [end[0] + across, end[1] - along]));
    }
    context.fill();
  }
}

function showGraph() {
  const values = nodeValues();
  drawEdges();
  for (const button of $('graph').querySelectorAll('button')) {
    const value = values[button.dataset.node];
    button.lastChild.textContent = value.length ? `(1, ${value.length})` : fixed(value, 1);
    button.setAttribute('aria-pressed', button.dataset.node === state.node);
  }
  const [name, , , says, formula, source = name] = NODES.find(([each]) => each === state.node);
  const value = values[name], list = value.length ? [...value] : [value];
  $('node-name').textContent = name;
  $('node-says').textContent = says + (/_h[12]/.test(name) ? ` f is ${run.activation}.` : '');
  $('node-formula').textContent = formula;
  $('node-picture').hidden = list.length < 100;
  if (list.length >= 100) drawValues($('node-picture'), name === 'dec_h3' ? list.map(sigmoid) : list);
  const range = `${fixed(Math.min(...list))} to ${fixed(Math.max(...list))}`;
  $('node-numbers').textContent = list.length > 100 ? `${list.length} numbers from ${range}`
    : list.length > 1 || value.length ? vector(list) : `${fixed(value, 2)} nats`;
  const {method, line, text} = run.source[source];
  $('node-code').textContent = `# net.py, ${method}, from line ${line}\n${text}`;
}

// Values as a picture, black for the least and white for the largest.
function drawValues(canvas, list) {
  const columns = list.length === 784 ? 28 : 50, rows = Math.ceil(list.length / columns);
  const least = Math.min(...list), range = Math.max(...list) - least || 1;
  [canvas.width, canvas.height] = [columns, rows];
  const image = new ImageData(columns, rows);
  list.forEach((value, i) => {
    const gray = 255 * (value - least) / range;
    image.data.set([gray, gray, gray, 255], 4 * i);
  });
  canvas.getContext('2d').putImageData(image, 0, 0);
}
