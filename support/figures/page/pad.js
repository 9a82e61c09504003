// A pad to draw a digit on with mouse, pen or finger. A drawing is brought to the form of MNIST.

class Pad {
  // on a square canvas; calls `changed` with the pixels (784) of the digit, or null if it is empty
  constructor(canvas, changed) {
    Object.assign(this, {canvas, changed, strokes: [], past: [], erase: false, drawing: null});
    this.context = canvas.getContext('2d', {willReadFrequently: true});
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width * canvas.width,
        (event.clientY - box.top) / box.height * canvas.height];
    };
    canvas.addEventListener('pointerdown', (event) => {
      if (this.drawing !== null || ![0, 5].includes(event.button)) return;      // a second finger
      this.drawing = event.pointerId;
      canvas.setPointerCapture(this.drawing);
      this.past.push([...this.strokes]);
      this.strokes.push({erase: this.erase || event.buttons === 32, points: [place(event)]});
      this.draw();
    });
    canvas.addEventListener('pointermove', (event) => {
      if (event.pointerId !== this.drawing) return;
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length ? all : [event]) this.strokes.at(-1).points.push(place(each));
      this.draw();
    });
    for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) {
      canvas.addEventListener(end, (event) => {
        if (event.pointerId === this.drawing) this.drawing = null;
      });
    }
    this.draw(true);
  }

  undo() {
    if (!this.past.length) return;
    this.drawing = null;
    this.strokes = this.past.pop();
    this.draw();
  }

  clear(quietly = false) {
    if (!this.strokes.length) return;
    this.drawing = null;
    this.past.push(this.strokes);
    this.strokes = [];
    this.draw(quietly);
  }

  draw(quietly = false) {
    const {context, canvas, strokes} = this;
    context.fillStyle = 'black';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.lineCap = context.lineJoin = 'round';
    for (const {erase, points} of strokes) {
      context.strokeStyle = erase ? 'black' : 'white';
      context.lineWidth = erase ? 34 : 22;
      context.beginPath();
      context.moveTo(points[0][0] + 0.01, points[0][1]);        // so that a single point is a dot
      for (const point of points) context.lineTo(...point);
      context.stroke();
    }
    if (!strokes.length) {
      context.fillStyle = '#8a8a8a';
      context.font = `20px ${FONT}`;
      context.textAlign = 'center';
      context.fillText('draw a digit here', canvas.width / 2, canvas.height / 2);
    }
    if (quietly) return;
    const x = strokes.length ? this.pixels() : null;
    if (x || !strokes.length) this.changed(x);                  // where all is erased, nothing changes
  }

  pixels() {
    const {width, height} = this.canvas, {data} = this.context.getImageData(0, 0, width, height);
    return asMnist(Float32Array.from({length: width * height}, (_, i) => data[4 * i] / 255),
      width);
  }
}

// Bring a picture of `width` pixels a row to MNIST's form: scaled so that its longer side has 20
// pixels, each the mean of what it covers, with the centre of mass in the middle of 28 x 28. Null if
// it has no more than a dot.
function asMnist(picture, width) {
  let left = width, right = -1, top = Infinity, bottom = -1;
  picture.forEach((ink, i) => {
    if (ink < 0.5) return;
    const x = i % width, y = Math.floor(i / width);
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  });
  const longer = Math.max(right - left, bottom - top) + 1;
  if (!(longer > width / 7)) return null;
  const scale = 20 / longer;
  let mass = 0, x0 = 0, y0 = 0;                                 // the centre of mass
  picture.forEach((ink, i) => {
    mass += ink;
    x0 += ink * (i % width + 0.5);
    y0 += ink * (Math.floor(i / width) + 0.5);
  });
  const parts = 4, small = new Float32Array(28 * 28);           // samples in each direction of a pixel
  small.forEach((_, i) => {
    let sum = 0;
    for (let part = 0; part < parts * parts; part++) {
      const u = i % 28 + (part % parts + 0.5) / parts;
      const v = Math.floor(i / 28) + (Math.floor(part / parts) + 0.5) / parts;
      const x = Math.floor((u - 14) / scale + x0 / mass), y = Math.floor((v - 14) / scale + y0 / mass);
      if (x >= left && x <= right && y >= top && y <= bottom) sum += picture[y * width + x];
    }
    small[i] = sum / parts ** 2;
  });
  return small;
}
