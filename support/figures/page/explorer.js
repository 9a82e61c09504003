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
  index: 0,             // its place among the page's test digits, or null where it was drawn by hand
  last: 0,              // the place of the test digit that was in last
  eps: null,            // drawn last, (Z)
  drawn: [],            // z drawn from q(z|x)
  walk: null,           // its ends: two z
  playing: 0,           // the time at which t was 0
  node: 'z',            // of the graph
};

// Draw parts of the page: once a frame, even if they are asked for more often.
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
  stop();
  moveTo(z);
}

function moveTo(z) {                            // on a walk, too
  [state.z, state.hover] = [Float32Array.from(z), null];
  plane.z = state.z;
  redraw(showFront, showPoint, showSliders, showLink);
  if (plane.map && vae.Z > 2) {                 // the map is cut through z: once it rests
    clearTimeout(moveTo.timer);
    moveTo.timer = setTimeout(() => redraw(showBack), 150);
  }
}

function setDigit(x, index) {
  const q = vae.encode(x);
  const eps = gaussian(vae.Z);
  Object.assign(state, {x, q, index, eps, drawn: [reparameterize(q, eps)]});
  setPoint(q.mu);
  redraw(showInput, showGraph);
}

function setTestDigit(index) {
  pad.clear(true);
  state.last = index;
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
  redraw(showBack, showFront, showLink, ...(state.z ? [showPoint] : []));
}

function setT(t) {
  $('t').value = t;
  const [from, to] = state.walk;
  moveTo(from.map((value, j) => (1 - t) * value + t * to[j]));
  $('t-value').textContent = fixed(t);
}

// What the plane and the digit beside it show ----------------------------------------------------

function showBack() { plane.drawBack(); }

function showFront() {
  plane.drawFront({...state, z: state.hover ?? state.z});
}

function showPoint() {
  const z = state.hover ?? state.z;
  for (const canvas of [$('digit'), $('float').firstChild]) putDigit(canvas.getContext('2d'), vae.decode(z).y);
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

// Do what a link says, as far as it fits this run.
function readLink() {
  const link = new URLSearchParams(location.hash.slice(1)), Z = vae.Z;
  const axes = (link.get('axes') ?? '').split(',').map(Number);
  const possible = axes.length === 2 && axes[0] !== axes[1]
    && axes.every((j) => Number.isInteger(j) && j >= 0 && j < Z);
  setAxes(Z > 2 ? (possible ? axes : 'pca') : [0, Z - 1]);
  const index = Number(link.get('digit'));
  setTestDigit(Number.isInteger(index) && index >= 0 && index < codes.length ? index : 0);
  const z = (link.get('z') ?? '').split(',').map(Number);
  if (link.get('z') && z.length === Z && z.every((value) => Math.abs(value) < 1e6)) setPoint(z);
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
  priorSheet.show(priorSheet.zs, priorColumns());
}

function priorColumns() { return window.innerWidth < 700 ? 10 : 20; }

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
  const {order, unused} = byUse(), most = Math.max(...run.kl, USED);
  for (const j of order) {
    const row = document.createElement('label');
    row.innerHTML = '<span></span><input type="range" step="0.01"><output></output>'
      + '<span class="bar"><i></i></span><span></span>';
    row.children[0].textContent = `z${subscript(j + 1)}`;
    row.children[3].firstChild.style.width = `${100 * run.kl[j] / most}%`;
    row.children[4].textContent = fixed(run.kl[j], run.kl[j] < USED ? 4 : 2);
    const farthest = codes.reduce((most, z) => Math.max(most, Math.abs(z[j])), 4);
    [row.children[1].min, row.children[1].max] = [-Math.ceil(farthest), Math.ceil(farthest)];
    row.children[1].dataset.dimension = j;
    row.children[1].addEventListener('input', (event) => {
      setPoint(state.z.map((value, k) => (k === j ? Number(event.target.value) : value)));
    });
    (unused.includes(j) ? $('unused').querySelector('div') : $('sliders')).append(row);
  }
  $('unused').hidden = !unused.length;
  $('unused').querySelector('summary').textContent = `${unused.length} dimensions that are not used`;
}

function showSliders() {
  for (const slider of document.querySelectorAll('.sliders input')) {
    const value = (state.hover ?? state.z)[slider.dataset.dimension];
    slider.value = value;
    slider.nextSibling.textContent = fixed(value);
  }
}

// The start --------------------------------------------------------------------------------------

function showAbout() {
  document.title = `${run.name}: explorer of the latent space`;
  $('about').textContent = `A VAE with ${vae.Z} latent dimension${vae.Z > 1 ? 's' : ''}, trained on `
    + `${run.settings[0][1]}${run.log.length ? ` for ${run.log.at(-1)[0]} epoch${run.log.at(-1)[0] > 1 ? 's' : ''}` : ''}.`;
  $('collapse').textContent = run.collapse && `Note: ${run.collapse}.`;
  $('draws').textContent = DRAWS;
  $('kl-digits').textContent = run.kl_digits.toLocaleString('en');
  $('index').max = codes.length - 1;
  $('last').textContent = codes.length - 1;
  $('between').hidden = vae.Z > 2;
  $('weighed').textContent = run.beta === 1 ? '' : ` Training weighed the second term by ${run.beta}.`;
  $('rest').textContent = vae.Z > 2 ? 'The plane is a section through z: where you move on it, all other '
    + 'directions of z stay as they are. Dots, rings and ellipses are projected onto it; so the digit '
    + 'decoded at a place is seldom one of the dots there. The principal components are those of the codes.'
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
    plane.hidden = new Set(plane.hidden.size ? [] : run.classes);
    for (const button of $('legend').children) button.setAttribute('aria-pressed', !plane.hidden.size);
    redraw(showBack);
  });
}

function makeAxes() {
  $('axes-label').hidden = vae.Z < 3;
  $('axes').append(new Option('principal components', 'pca'), new Option('two of z', 'pair'));
  for (const select of [$('axis-i'), $('axis-j')]) {
    for (let j = 0; j < vae.Z; j++) select.append(new Option(j + 1, j));
    select.addEventListener('change', () => {
      const axes = [$('axis-i'), $('axis-j')].map((each) => Number(each.value));
      setAxes(axes[0] === axes[1] ? [plane.axes[1], plane.axes[0]] : axes);
    });
  }
  $('axes').addEventListener('change', () => setAxes($('axes').value === 'pca' ? 'pca' : byUse().order.slice(0, 2)));
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
    const text = done ? 'copied' : 'it is in the address bar';
    $('link').textContent = state.index === null ? `${text}, without the drawing` : text;
    setTimeout(() => { $('link').textContent = 'copy link'; }, 2000);
  });
  on('to-code', () => setPoint(state.q.mu));
  on('to-origin', () => setPoint(new Float32Array(vae.Z)));
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
  on('index', () => {
    const index = Math.max(0, Math.min(codes.length - 1, Math.round(Number($('index').value || NaN))));
    if (Number.isFinite(index) && index !== state.index) setTestDigit(index);
    $('index').value = state.index ?? '';
  }, 'change');
  on('random', () => setTestDigit(Math.floor(uniform() * codes.length)));
  on('draw-z', drawZ);
  for (const [id, end] of [['from', 0], ['to', 1]]) {
    on(id, () => {
      stop();
      state.walk[end] = state.z;
      $('t').value = end;
      $('t-value').textContent = fixed(end);
      redraw(showWalk);
    });
  }
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
  new ResizeObserver(() => redraw(drawEdges)).observe($('graph'));
  new IntersectionObserver(([{isIntersecting}]) => { $('float').hidden = isIntersecting; }).observe($('digit'));
  const repaint = () => redraw(showBack, showFront, showInput, showGraph, showCurves, ...(epochs ? [showEpoch] : []));
  window.addEventListener('resize', () => {
    repaint();
    if (priorColumns() !== priorSheet.columns) redraw(showPrior);
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);
}

async function start() {
  run = JSON.parse($('run').textContent);
  const bytes = await unpack('weights');
  pixels = await unpack('pixels');
  await readEpochs();
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
      state.hover = plane.moved(state.z, vae.Z === 1 ? [point[0], 0] : point);
      redraw(showFront, showPoint, showSliders);
    },
    leave: () => {
      state.hover = null;
      redraw(showFront, showPoint, showSliders);
    },
    hold: (point) => setPoint(plane.moved(state.z, vae.Z === 1 ? [point[0], 0] : point)),
    pick: setTestDigit,
  });
  pad = new Pad($('pad'), (x) => (x ? setDigit(x, null) : setTestDigit(state.last)));
  walkSheet = new Sheet($('strip'), 'digits on the walk', (z, i) => { stop(); setT(i / 10); });
  priorSheet = new Sheet($('prior'), 'digits from the prior', setPoint);
  const first = (label) => codes[run.labels.indexOf(label)];
  state.walk = [first(run.classes[0]), first(run.classes[7] ?? run.classes.at(-1))];
  makeLegend();
  makeAxes();
  makeSliders();
  makeGraph();
  makeEpochs();
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
  $('trouble').textContent = `The page cannot start: ${error.message}.`
    + (window.DecompressionStream ? '' : ' It needs a browser of 2023 or later.');
  throw error;
}));
