// The foot of the page: the run's settings, and its learning curves.

function showRun() {
  for (const [term, value] of run.settings) {
    const dt = document.createElement('dt'), dd = document.createElement('dd');
    [dt.textContent, dd.textContent] = [term, value];
    $('settings').append(dt, dd);
  }
  $('curves-figure').hidden = run.log.length < 3;
}

// Some round numbers between two.
function ticks(from, to) {
  const rough = (to - from || 1) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough), found = [];
  for (let i = Math.ceil(from / step); i * step <= to; i++) found.push(+(i * step).toPrecision(6));
  return found;
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
  for (const loss of ticks(least, least + range)) {
    context.beginPath();
    context.moveTo(48, y(loss));
    context.lineTo(width - 22, y(loss));
    context.stroke();
    context.fillStyle = color('--muted');
    context.textAlign = 'right';
    context.fillText(loss, 42, y(loss) + 4);
  }
  context.textAlign = 'center';
  for (const epoch of ticks(rows[0][0], rows.at(-1)[0])) {
    if (Number.isInteger(epoch)) context.fillText(epoch, x(epoch), height - 6);
  }
  for (const [column, name] of [[1, '--blue'], [2, '--red']]) {
    context.strokeStyle = color(name);
    context.lineWidth = 2;
    context.beginPath();
    for (const row of rows) context.lineTo(x(row[0]), y(row[column]));
    context.stroke();
  }
  if (epochs && epochs.at[epochs.index] >= rows[0][0]) {        // the epoch of the slider
    context.strokeStyle = color('--text');
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x(epochs.at[epochs.index]), 8);
    context.lineTo(x(epochs.at[epochs.index]), height - 26);
    context.stroke();
  }
}
