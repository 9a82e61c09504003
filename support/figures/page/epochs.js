// How the run learned: what train_vae.py noted after each epoch, moved through by a slider.

let epochs = null;                      // {at: the epochs, points, digits: of each; n, limit, labels}
const SECONDS = 0.25;                   // that an epoch stays, while the run plays

// Read what Python packed: of each epoch n points (2) as int16 and digits as bytes; then the inputs.
async function readEpochs() {
  if (!run.record) return;
  const bytes = await unpack('record'), {n, digits} = run.record, size = 4 * n + 784 * digits;
  const numbers = new DataView(bytes.buffer);
  epochs = {...run.record, index: run.record.at.length - 1, timer: null};
  epochs.points = epochs.at.map((_, e) => Array.from({length: n}, (_, i) => [0, 2].map(
    (part) => numbers.getInt16(e * size + 4 * i + part, true) / 32767 * epochs.limit)));
  epochs.digits = epochs.at.map((_, e) => Array.from({length: digits}, (_, i) =>
    digitAt(bytes, e * size + 4 * n + 784 * i)));
  epochs.inputs = Array.from({length: epochs.columns}, (_, i) =>
    digitAt(bytes, epochs.at.length * size + 784 * i));
}

const digitAt = (bytes, start) => Float32Array.from(bytes.subarray(start, start + 784), (p) => p / 255);

function makeEpochs() {
  $('learning').hidden = !epochs;
  if (!epochs) return;
  $('curves-here').append($('curves-figure'));
  const last = epochs.at.length - 1;
  $('epoch').max = $('epoch').value = last;
  $('epoch').addEventListener('input', () => { stopEpochs(); setEpoch(Number($('epoch').value)); });
  $('last-epoch').addEventListener('click', () => { stopEpochs(); setEpoch(last); });
  $('play-epochs').addEventListener('click', () => {
    if (epochs.timer) return stopEpochs();
    setEpoch(epochs.index === last ? 0 : epochs.index);
    $('play-epochs').textContent = 'stop';
    epochs.timer = setInterval(() => {
      if (epochs.index === last) return stopEpochs();
      setEpoch(epochs.index + 1);
    }, 1000 * SECONDS);
  });
  setEpoch(last);
}

function stopEpochs() {
  clearInterval(epochs.timer);
  epochs.timer = null;
  $('play-epochs').textContent = 'play';
}

function setEpoch(index) {
  epochs.index = index;
  $('epoch').value = index;
  $('epoch').setAttribute('aria-valuetext', `epoch ${epochs.at[index]}`);
  $('epoch-value').textContent = epochs.at[index];
  const [rec, kl] = epochs.terms[index] ?? [];
  $('epoch-terms').textContent = rec === undefined ? '' : `Test digits: reconstruction error ${fixed(rec, 1)}`
    + ` + KL divergence ${fixed(kl, 1)} = loss ${fixed(rec + kl, 1)} nats`;
  redraw(showEpoch, showCurves);
}

function showEpoch() {
  const points = epochs.points[epochs.index], side = Math.min(400, $('cloud').parentNode.clientWidth);
  const context = fitted($('cloud'), side, side), toScreen = (u) => (u / epochs.limit + 1) * side / 2;
  context.strokeStyle = color('--muted');
  context.setLineDash([5, 4]);
  for (const sigma of [1, 2, 3]) {
    context.beginPath();
    context.arc(side / 2, side / 2, sigma / epochs.limit * side / 2, 0, 2 * Math.PI);
    context.stroke();
  }
  points.forEach(([u, v], i) => {
    context.fillStyle = plane.colorOf(epochs.labels[i]);
    context.beginPath();
    context.arc(toScreen(u), toScreen(-v), 3, 0, 2 * Math.PI);
    context.fill();
  });
  const columns = epochs.columns, digits = epochs.digits[epochs.index];
  for (const [id, rows] of [['then', digits.slice(0, columns)], ['then-samples', digits.slice(columns)]]) {
    const canvas = $(id), shown = id === 'then' ? [...epochs.inputs, ...rows] : rows;
    canvas.width = 28 * columns;
    canvas.height = 28 * shown.length / columns;
    shown.forEach((y, i) => putDigit(canvas.getContext('2d'), y,
      28 * (i % columns), 28 * Math.floor(i / columns)));
  }
}
