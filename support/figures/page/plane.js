// The latent plane: dots, rings, the map behind them, ellipses of q(z|x), the walk, the point z.

const FONT = 'system-ui, sans-serif';
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Fit a canvas to its place on the page, sharp on any screen; returns its context, in CSS pixels.
function fitted(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext('2d');
  context.scale(ratio, ratio);
  return context;
}

// Put pixels in [0, 1] on a canvas of 28 x 28, or on a part of a larger one.
function putDigit(context, y, left = 0, top = 0) {
  const image = new ImageData(28, 28);
  y.forEach((value, i) => image.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
  context.putImageData(image, left, top);
}

class Plane {
  // of a VAE and codes: (N) arrays (Z), with labels (N); `handlers` has hover, leave, hold and pick.
  // z is set from outside: the arrow keys move it, and the map is a section through it.
  constructor(root, vae, codes, labels, run, handlers) {
    [this.back, this.front] = root.querySelectorAll('canvas');
    Object.assign(this, {root, vae, codes, labels, run, handlers, hidden: new Set(), map: false});
    this.medoids = new Map();
    this.listen();
  }

  // Choose what the axes are: 'pca', or the numbers [i, j] of two dimensions.
  setAxes(axes) {
    const unit = (j) => Float32Array.from({length: this.vae.Z}, (_, k) => +(k === j));
    this.axes = axes;
    this.rows = axes === 'pca' ? this.run.components : axes.map(unit);      // (2, Z)
    if (this.vae.Z === 1) this.rows = [unit(0), new Float32Array(1)];
    this.names = axes === 'pca' ? ['first principal component', 'second principal component']
      : this.vae.Z === 1 ? ['z₁', 'label'] : axes.map((j) => `z${subscript(j + 1)}`);
    const classes = this.run.classes;
    this.points = this.codes.map((z, i) => this.vae.Z === 1
      ? [z[0], 2.6 - 5.2 * classes.indexOf(this.labels[i]) / Math.max(classes.length - 1, 1)]
      : this.project(z));
    this.limit = Math.max(3.3, 1.05 * this.points.reduce(
      (most, [u, v]) => Math.max(most, Math.abs(u), Math.abs(v)), 0));
    this.medoids.clear();
  }

  project(z) {
    return this.rows.map((row) => row.reduce((sum, weight, j) => sum + weight * z[j], 0));
  }

  // Of q(z|x), in the plane: (2, 2).
  covariance({ln_var}) {
    return this.rows.map((a) => this.rows.map((b) => a.reduce(
      (sum, weight, j) => sum + weight * b[j] * Math.exp(ln_var[j]), 0)));
  }

  // z, moved in the plane to a point; what is outside the plane stays.
  moved(z, [u, v]) {
    const [a, b] = this.project(z);
    return z.map((value, j) => value + (u - a) * this.rows[0][j] + (v - b) * this.rows[1][j]);
  }

  toScreen([u, v]) {
    const half = this.side / 2;
    return [half + u / this.limit * half, half - v / this.limit * half];
  }

  toPlane(event) {
    const box = this.front.getBoundingClientRect();
    return this.within([(2 * (event.clientX - box.left) / box.width - 1) * this.limit,
      (1 - 2 * (event.clientY - box.top) / box.height) * this.limit]);
  }

  within(point) {
    return point.map((value) => Math.max(-this.limit, Math.min(this.limit, value)));
  }

  // The place of the visible dot that is nearest to a point, or -1 if none is nearer than `within`. If v is
  // null, only u counts.
  nearest([u, v], within) {
    let best = -1, least = within ** 2;
    this.points.forEach(([a, b], i) => {
      const distance = (a - u) ** 2 + (v === null ? 0 : (b - v) ** 2);
      if (distance < least && !this.hidden.has(this.labels[i])) [best, least] = [i, distance];
    });
    return best;
  }

  listen() {
    const {front, handlers} = this;
    let start = null, moved = false, held = null;       // the pointer that holds z
    front.addEventListener('pointerdown', (event) => {
      if (start || event.button) return;        // a second finger, another button
      start = [event.clientX, event.clientY];
      held = event.pointerId;
      moved = false;
      front.setPointerCapture(event.pointerId);
      handlers.hold(this.toPlane(event));
    });
    front.addEventListener('pointermove', (event) => {
      if (!start) return handlers.hover(this.toPlane(event));
      if (event.pointerId !== held) return;
      moved ||= Math.hypot(event.clientX - start[0], event.clientY - start[1]) > 4;
      handlers.hold(this.toPlane(event));
    });
    front.addEventListener('pointerup', (event) => {
      if (event.pointerId !== held) return;
      const i = this.nearest(this.toPlane(event), 7 * 2 * this.limit / this.side);
      if (start && !moved && i >= 0) handlers.pick(i);
      start = null;
    });
    for (const end of ['pointercancel', 'lostpointercapture']) {
      front.addEventListener(end, (event) => { if (event.pointerId === held) start = null; });
    }
    front.addEventListener('pointerleave', () => { if (!start) handlers.leave(); });
    front.addEventListener('keydown', (event) => {
      const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
      const [u, v] = this.project(this.z);
      if (step) {
        const length = event.shiftKey ? 0.5 : 0.1;
        handlers.hold(this.within([u + length * step[0], v + length * step[1]]));
      } else if (event.key === 'Enter') {
        const i = this.nearest([u, this.vae.Z === 1 ? null : v], Infinity);
        if (i >= 0) handlers.pick(i);
      } else {
        return;
      }
      event.preventDefault();
    });
  }

  // All that does not move: the map, the rings, the dots, the numerals.
  drawBack() {
    this.side = this.root.clientWidth;
    const context = fitted(this.back, this.side, this.side);
    context.fillStyle = color('--panel');
    context.fillRect(0, 0, this.side, this.side);
    if (this.map) this.drawMap(context);
    this.drawAxes(context);
    const radius = Math.max(2, Math.min(4, 100 / Math.sqrt(this.points.length)));
    context.lineWidth = 0.5;
    context.strokeStyle = color('--panel');
    context.globalAlpha = this.map ? 0.55 : 1;
    this.points.forEach((point, i) => {
      if (this.hidden.has(this.labels[i])) return;
      context.fillStyle = this.colorOf(this.labels[i]);
      context.beginPath();
      context.arc(...this.toScreen(point), radius, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    });
    context.globalAlpha = 1;
    this.drawNumerals(context);
  }

  // At the medoid of each visible class, or near it if two would overlap.
  drawNumerals(context) {
    const labels = this.run.classes.filter((label) => !this.hidden.has(label));
    const places = labels.map((label) => [...this.toScreen(this.medoid(label))]);
    for (let round = 0; round < 50; round++) {
      places.forEach((a, i) => places.slice(0, i).forEach((b) => {
        const [u, v] = [a[0] - b[0], a[1] - b[1]], distance = Math.hypot(u, v) || 1;
        const push = Math.max(0, 17 - distance) / 2 / distance;
        [a[0], a[1], b[0], b[1]] = [a[0] + push * u, a[1] + push * v, b[0] - push * u, b[1] - push * v];
      }));
    }
    labels.forEach((label, i) => this.drawText(context, label, places[i]));
  }

  drawAxes(context) {
    context.lineWidth = 1;
    context.strokeStyle = this.map ? '#ffffffb0' : color('--muted');
    context.setLineDash([5, 4]);
    for (const sigma of [1, 2, 3]) this.drawGaussian(context, [0, 0], [[1, 0], [0, 1]], [sigma]);
    context.setLineDash([]);
    const write = (text, x, y) => {
      if (this.map) context.strokeText(text, x, y);             // a halo over the digits
      context.fillText(text, x, y);
    };
    [context.strokeStyle, context.lineWidth] = ['#000000', 4];
    context.fillStyle = this.map ? '#ffffff' : color('--muted');
    context.font = `11px ${FONT}`;
    context.textAlign = 'center';
    context.textBaseline = 'bottom';
    const step = this.limit > 8 ? Math.ceil(this.limit / 4) : this.limit > 4 ? 2 : 1;
    for (let u = -Math.floor(this.limit / step) * step; u <= this.limit; u += step) {
      const [x, y] = this.toScreen([u, u]);
      if (x < 16 || x > this.side - 16) continue;
      write(u, x, this.side - 2);
      if (this.vae.Z > 1 && y < this.side - 24) write(u, 12, y + 6);
    }
    context.textAlign = 'right';
    write(this.names[0], this.side - 6, this.side - 18);
    context.textAlign = 'left';
    context.textBaseline = 'top';
    write(this.names[1], 6, 6);
  }

  drawMap(context) {
    const n = 20, canvas = document.createElement('canvas'), origin = this.moved(this.z, [0, 0]);
    const key = String([this.axes, ...origin.map((value) => value.toFixed(3))]);
    if (this.mapKey !== key) {
      canvas.width = canvas.height = 28 * n;
      const tiles = canvas.getContext('2d');
      for (let i = 0; i < n * n; i++) {
        const u = ((i % n + 0.5) / n * 2 - 1) * this.limit;
        const v = (1 - (Math.floor(i / n) + 0.5) / n * 2) * this.limit;
        putDigit(tiles, this.vae.decode(this.moved(origin, [u, v])).y, 28 * (i % n), 28 * Math.floor(i / n));
      }
      [this.mapKey, this.mapCanvas] = [key, canvas];
    }
    context.drawImage(this.mapCanvas, 0, 0, this.side, this.side);
  }

  // The dot of a class with the least mean distance to the others. At the mean there may be no dot.
  medoid(label) {
    if (!this.medoids.has(label)) {
      const own = this.points.filter((_, i) => this.labels[i] === label);
      const some = own.filter((_, i) => i % Math.ceil(own.length / 100) === 0);
      const spread = ([a, b]) => some.reduce((sum, [u, v]) => sum + Math.hypot(u - a, v - b), 0);
      this.medoids.set(label, own.reduce((best, p) => (spread(p) < spread(best) ? p : best)));
    }
    return this.medoids.get(label);
  }

  // The contours of N(mu, C), (2) and (2, 2), at some sigma: ellipses, or lines for z = 1.
  drawGaussian(context, mu, [[a, c], [, b]], sigmas) {
    const unit = this.side / 2 / this.limit, [x, y] = this.toScreen(mu);
    for (const times of sigmas) {
      context.beginPath();
      if (this.vae.Z === 1) {
        for (const sign of [-1, 1]) {
          context.moveTo(x + sign * times * Math.sqrt(a) * unit, 0);
          context.lineTo(x + sign * times * Math.sqrt(a) * unit, this.side);
        }
      } else {
        const [major, minor, angle] = ellipse([[a, c], [c, b]]);
        context.ellipse(x, y, times * major * unit, times * minor * unit, -angle, 0, 2 * Math.PI);
      }
      context.stroke();
    }
  }

  // q(z|x) up close, and the points drawn from it.
  drawClose(canvas, {q, drawn}) {
    const side = 150, context = fitted(canvas, side, side), C = this.covariance(q);
    const unit = side / 2 / 3.4 / ellipse(C)[0], mu = this.project(q.mu);
    const [major, minor, angle] = ellipse(C);
    context.fillStyle = color('--panel');
    context.fillRect(0, 0, side, side);
    context.translate(side / 2, side / 2);
    context.strokeStyle = color('--q');
    for (const times of [1, 2, 3]) {
      context.beginPath();
      context.ellipse(0, 0, times * major * unit, (minor || major / 4) * times * unit, -angle, 0, 2 * Math.PI);
      context.stroke();
    }
    context.fillStyle = color('--q');
    drawn.forEach((z, i) => {
      const [u, v] = this.project(z);
      context.globalAlpha = i === drawn.length - 1 ? 1 : 0.5;
      context.beginPath();
      context.arc((u - mu[0]) * unit, (mu[1] - v) * unit, i === drawn.length - 1 ? 5 : 2.5, 0, 2 * Math.PI);
      context.fill();
    });
    context.globalAlpha = 1;
    context.fillStyle = color('--text');
    context.font = `12px ${FONT}`;
    context.fillText('µ', 4, 12);
    context.fillRect(-3, -0.5, 7, 1);
    context.fillRect(0, -3, 1, 7);
  }

  drawText(context, text, [x, y]) {
    context.font = `bold 16px ${FONT}`;
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.lineWidth = 4;
    context.lineJoin = 'round';
    context.strokeStyle = color('--panel');
    context.strokeText(text, x, y);
    context.fillStyle = color('--text');
    context.fillText(text, x, y);
  }

  // All that moves: q(z|x) = N(mu, sigma^2), points drawn from it, the walk, and z.
  drawFront({q, drawn, walk, z}) {
    const context = fitted(this.front, this.side, this.side);
    const lined = (draw) => {
      for (const [width, style] of [[4, color('--panel')], [1.8, color('--q')]]) {
        [context.lineWidth, context.strokeStyle] = [width, style];
        draw();
      }
    };
    lined(() => this.drawGaussian(context, this.project(q.mu), this.covariance(q), [1, 2, 3]));
    for (const point of drawn.map((each) => this.toScreen(this.project(each)))) {
      context.fillStyle = color('--q');
      context.beginPath();
      context.arc(...point, 2.5, 0, 2 * Math.PI);
      context.fill();
    }
    if (walk) {
      const [from, to] = walk.map((end) => this.toScreen(this.project(end)));
      for (const [width, style] of [[4, color('--panel')], [1.8, color('--text')]]) {
        [context.lineWidth, context.strokeStyle] = [width, style];
        context.beginPath();
        context.moveTo(...from);
        context.lineTo(...to);
        context.stroke();
      }
      this.drawRing(context, from, 5);
      this.drawRing(context, to, 5);
    }
    this.drawRing(context, this.toScreen(this.within(this.project(z))), 9);
  }

  drawRing(context, [x, y], radius) {
    for (const [width, style] of [[5, color('--panel')], [2, color('--text')]]) {
      [context.lineWidth, context.strokeStyle] = [width, style];
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  colorOf(label) {
    return this.run.colors[this.run.classes.indexOf(label) % this.run.colors.length];
  }
}

const subscript = (n) => String(n).replace(/\d/g, (digit) => '₀₁₂₃₄₅₆₇₈₉'[digit]);

// Of a covariance matrix: the standard deviations along the axes of its ellipse; the angle of the first.
function ellipse([[a, c], [, b]]) {
  const middle = (a + b) / 2, root = Math.hypot((a - b) / 2, c);
  return [Math.sqrt(middle + root), Math.sqrt(Math.max(middle - root, 0)), Math.atan2(2 * c, a - b) / 2];
}
