// A sheet of digits, each decoded from a z that a click or the arrow keys choose.

class Sheet {
  // of so many columns; `pick` is called with the z that is chosen
  constructor(root, label, pick) {
    this.canvas = document.createElement('canvas');
    this.canvas.className = 'pixels';
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute('role', 'application');
    this.canvas.setAttribute('aria-label', `${label}; the arrow keys choose one`);
    this.mark = document.createElement('i');
    root.append(this.canvas, this.mark);
    Object.assign(this, {pick, at: -1});
    const choose = (i) => {
      if (i < 0 || i >= this.zs.length) return;
      this.at = i;
      this.showMark();
      pick(this.zs[i], i);
    };
    this.canvas.addEventListener('click', (event) => {
      const box = this.canvas.getBoundingClientRect();
      choose(this.columns * Math.floor((event.clientY - box.top) / box.height * this.zs.length / this.columns)
        + Math.floor((event.clientX - box.left) / box.width * this.columns));
    });
    this.canvas.addEventListener('keydown', (event) => {
      const to = {
        ArrowLeft: this.at - 1, ArrowRight: this.at + 1, ArrowUp: this.at - this.columns,
        ArrowDown: this.at + this.columns, Home: 0, End: this.zs.length - 1,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(this.at < 0 && event.key !== 'End' ? 0 : to);
    });
  }

  show(zs, columns) {
    Object.assign(this, {zs, columns, at: -1});
    this.showMark();
    this.canvas.width = 28 * columns;
    this.canvas.height = 28 * zs.length / columns;
    const context = this.canvas.getContext('2d');
    zs.forEach((z, i) => putDigit(context, vae.decode(z).y, 28 * (i % columns), 28 * Math.floor(i / columns)));
  }

  showMark() {
    const rows = this.zs.length / this.columns, {style} = this.mark;
    this.mark.hidden = this.at < 0;
    [style.width, style.height] = [`${100 / this.columns}%`, `${100 / rows}%`];
    style.left = `${this.at % this.columns * 100 / this.columns}%`;
    style.top = `${Math.floor(this.at / this.columns) * 100 / rows}%`;
  }
}
