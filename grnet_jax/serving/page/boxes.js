// The box over the photo: dragged, moved and resized by pointer, by keyboard, and by typing.

const $ = (id) => document.getElementById(id);
const SMALLEST = 8; // pixels of the photo
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class BoxEditor {
  constructor(changed) {
    this.changed = changed;
    this.box = null; // [x_1, y_1, x_2, y_2] in pixels of the photo, or null for all of it
    this.size = [1, 1];
    this.garments = [];
    const stage = $("stage");
    stage.addEventListener("pointerdown", (event) => this.press(event));
    stage.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, () => this.release());
    $("box").addEventListener("keydown", (event) => this.key(event));
    $("whole").addEventListener("click", () => this.set(null));
    $("middle").addEventListener("click", () => {
      const [w, h] = this.size;
      this.set([w / 4, h / 4, (3 * w) / 4, (3 * h) / 4]);
      $("box").focus();
    });
    $("edges").addEventListener("submit", (event) => event.preventDefault());
    $("edges").addEventListener("change", () => this.typed());
  }

  open(size, garments, editable) {
    this.size = size;
    this.garments = garments;
    this.editable = editable;
    $("stage").classList.toggle("editable", editable);
    $("box-tools").hidden = !editable;
    this.box = null;
    this.draw();
  }

  set(box) {
    this.box = box && this.within(box);
    this.draw();
    this.changed();
  }

  within([a, b, c, d]) {
    const [w, h] = this.size;
    const left = clamp(Math.min(a, c), 0, w - SMALLEST), top = clamp(Math.min(b, d), 0, h - SMALLEST);
    return [left, top, clamp(Math.max(a, c), left + SMALLEST, w), clamp(Math.max(b, d), top + SMALLEST, h)].map(Math.round);
  }

  point(event) {
    const area = $("picture").getBoundingClientRect();
    return [((event.clientX - area.left) / area.width) * this.size[0], ((event.clientY - area.top) / area.height) * this.size[1]];
  }

  press(event) {
    if (!this.editable || event.button || event.target.closest("#garments")) return;
    const [x, y] = this.point(event), corner = event.target.dataset.corner;
    this.start = { x, y, box: this.box && [...this.box], corner, inside: event.target.id === "box", moved: false };
    $("stage").setPointerCapture(event.pointerId);
    if (!corner && event.target.id !== "box") event.preventDefault();
  }

  drag(event) {
    if (!this.start) return;
    const { x, y, box, corner, inside } = this.start, [px, py] = this.point(event);
    this.start.moved ||= Math.hypot(px - x, py - y) > 3;
    if (!this.start.moved) return;
    if (corner) {
      const edges = [...box];
      edges[corner.includes("w") ? 0 : 2] = px;
      edges[corner.includes("n") ? 1 : 3] = py;
      this.box = this.within(edges);
    } else if (inside) this.box = this.shifted(box, px - x, py - y);
    else this.box = this.within([x, y, px, py]);
    this.draw();
  }

  shifted([a, b, c, d], dx, dy) {
    dx = clamp(dx, -a, this.size[0] - c);
    dy = clamp(dy, -b, this.size[1] - d);
    return [a + dx, b + dy, c + dx, d + dy].map(Math.round);
  }

  release() {
    if (this.start?.moved) this.changed();
    this.start = null;
  }

  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") this.set(null);
    if (!step || !this.box) return;
    event.preventDefault();
    const dx = Math.max(this.size[0] / 100, 1) * step[0], dy = Math.max(this.size[1] / 100, 1) * step[1];
    const [a, b, c, d] = this.box;
    this.set(event.shiftKey ? [a, b, Math.max(c + dx, a + SMALLEST), Math.max(d + dy, b + SMALLEST)] : this.shifted(this.box, dx, dy));
  }

  typed() {
    const edges = [0, 1, 2, 3].map((place) => $("edges").elements[place].value);
    if (edges.every((text) => text !== "")) this.set(edges.map(Number));
  }

  draw() {
    const [w, h] = this.size, box = this.box, element = $("box");
    element.hidden = !box;
    if (box) {
      place(element, box.map((edge, at) => edge / (at % 2 ? h : w)));
      element.setAttribute("aria-label", `Searched part: ${box[0]} to ${box[2]} across, ${box[1]} to ${box[3]} down`);
    }
    $("whole").setAttribute("aria-pressed", String(!box));
    for (const at of [0, 1, 2, 3]) $("edges").elements[at].value = box ? box[at] : "";
    $("garments").replaceChildren(...this.garments.map((one, number) => this.offer(one, number + 1)));
  }

  offer(garment, number) {
    const button = document.createElement("button"), [w, h] = this.size;
    const [a, b, c, d] = garment.box;
    button.type = "button";
    button.textContent = `${number} ${garment.category}`;
    button.style.left = `${clamp((50 * (a + c)) / w, 12, 88)}%`;
    button.style.top = `${clamp((50 * (b + d)) / h, 6, 94)}%`;
    button.setAttribute("aria-pressed", String(String(this.box) === String(this.within(garment.box))));
    button.addEventListener("click", () => {
      this.set(garment.box);
      $("garments").children[number - 1].focus();
    });
    return button;
  }
}

// Places an element over a picture by shares of it.
export function place(element, [left, top, right, bottom]) {
  Object.assign(element.style, {
    left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
  });
}
