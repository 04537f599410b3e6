// Pointers, wheel and keys; at last the page is shown.

const DIVIDER_REACH = 22; // CSS pixels on both sides of the divider within which it is taken
const CLICK_REACH = 4; // CSS pixels by which a click may move

const pointers = new Map(); // pointer → its position in the viewport
let gesture = null; // {kind: "split", "pan" or "pinch", ...}

const positionOf = (event) => {
  const box = viewport.getBoundingClientRect();
  return [event.clientX - box.left - viewport.clientLeft, event.clientY - box.top - viewport.clientTop];
};

const splitAt = (x) => {
  const [left, , right] = visible();
  return right > left ? (100 * (x - left)) / (right - left) : 50;
};

const pinchOf = () => {
  const [[x, y], [otherX, otherY]] = [...pointers.values()];
  return {distance: Math.hypot(otherX - x, otherY - y), middle: [(x + otherX) / 2, (y + otherY) / 2]};
};

viewport.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  const point = positionOf(event);
  viewport.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, point);
  if (pointers.size === 2) {
    gesture = {kind: "pinch", ...pinchOf(), zoom: geometry().zoom};
  } else if (pointers.size === 1) {
    const near = Math.abs(point[0] - dividerX()) <= DIVIDER_REACH;
    gesture = {kind: near || !isEnlarged() ? "split" : "pan", start: point, near, moved: false, offset: near ? point[0] - dividerX() : 0};
  }
});

viewport.addEventListener("pointermove", (event) => {
  const point = positionOf(event);
  const before = pointers.get(event.pointerId);
  if (!before || !gesture) {
    viewport.classList.toggle("at-divider", Math.abs(point[0] - dividerX()) <= DIVIDER_REACH);
    return;
  }
  pointers.set(event.pointerId, point);
  if (gesture.kind === "pinch") {
    if (pointers.size < 2) return;
    const now = pinchOf();
    pan(gesture.middle[0] - now.middle[0], gesture.middle[1] - now.middle[1]);
    zoomTo((gesture.zoom * now.distance) / Math.max(1, gesture.distance), now.middle);
    gesture.middle = now.middle;
    return;
  }
  gesture.moved ||= Math.hypot(point[0] - gesture.start[0], point[1] - gesture.start[1]) > CLICK_REACH;
  if (!gesture.moved) return;
  if (gesture.kind === "split") setSplit(splitAt(point[0] - gesture.offset));
  else pan(before[0] - point[0], before[1] - point[1]);
});

for (const ending of ["pointerup", "pointercancel"]) {
  viewport.addEventListener(ending, (event) => {
    if (!pointers.delete(event.pointerId) || !gesture) return;
    if (ending === "pointerup" && gesture.kind !== "pinch" && !gesture.moved && !gesture.near) {
      const {zoom, left, top} = geometry();
      const [x, y] = positionOf(event);
      placeRegion((x - left) / zoom, (y - top) / zoom);
      draw();
      keepAddress();
    }
    if (!pointers.size) gesture = null;
  });
}

viewport.addEventListener("dblclick", (event) => {
  const point = positionOf(event);
  if (state.zoom) showWhole();
  else zoomTo(PIXELATED_FROM, point);
});

viewport.addEventListener("wheel", (event) => {
  event.preventDefault();
  const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : event.deltaMode === WheelEvent.DOM_DELTA_PAGE ? 400 : 1;
  // A pinch on a touchpad arrives as small steps of the wheel with Ctrl.
  zoomTo(geometry().zoom * Math.exp(-event.deltaY * unit * (event.ctrlKey ? 0.01 : 0.0015)), positionOf(event));
}, {passive: false});

function showWhole() {
  state.zoom = 0;
  settle();
}

byId("split").addEventListener("input", (event) => setSplit(Number(event.target.value)));
byId("left").addEventListener("change", (event) => choose("left", Number(event.target.value)));
byId("right").addEventListener("change", (event) => choose("right", Number(event.target.value)));
const swap = () => choose("left", state.right);
byId("swap").addEventListener("click", swap);
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("zoom-in").addEventListener("click", () => zoomStep(1));
byId("zoom-out").addEventListener("click", () => zoomStep(-1));
byId("zoom-fit").addEventListener("click", showWhole);
byId("crop-size").addEventListener("change", (event) => {
  const [x, y, size] = region();
  placeRegion(x + size / 2, y + size / 2, Number(event.target.value));
  draw();
  keepAddress();
});

function showAll() {
  const image = state.image;
  navigate(-1);
  rows[image].querySelector("a").focus();
}
byId("back").addEventListener("click", (event) => {
  event.preventDefault();
  showAll();
});

const help = byId("help");
for (const button of document.querySelectorAll("button.help")) button.addEventListener("click", () => help.showModal());
byId("help-close").addEventListener("click", () => help.close());
help.addEventListener("click", (event) => {
  if (event.target === help) help.close();
});

// ------------------------------------------------------------------------------------------------------------ keys

const STEPS = {ArrowRight: 1, ArrowDown: 1, j: 1, ArrowLeft: -1, ArrowUp: -1, k: -1};
const DIRECTIONS = {ArrowRight: [1, 0], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowUp: [0, -1]};
const PANS = {w: [0, -1], a: [-1, 0], s: [0, 1], d: [1, 0]};

/** The handlers of keys in the viewer, each called with the event. */
const VIEWER_KEYS = {
  "+": () => zoomStep(1),
  "=": () => zoomStep(1),
  "-": () => zoomStep(-1),
  0: showWhole,
  x: swap,
  "[": () => setSplit(state.split - 5),
  "]": () => setSplit(state.split + 5),
  b: () => setSplit(state.split > 99 ? 0 : 100),
  Escape: showAll,
};

/** Whether an element uses keys itself: all of them ("all"), arrows only ("arrows"), or none (""). */
function usesKeys(target) {
  if (target.matches("input[type=search], select")) return "all";
  return target.matches("input[type=range], .scroll") ? "arrows" : "";
}

function onKey(event) {
  if (help.open || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const used = usesKeys(event.target);
  if (event.key === "Escape" && event.target.matches("input[type=search], select")) {
    event.target.blur();
    return;
  }
  if (used === "all" || (used === "arrows" && (event.key in DIRECTIONS))) return;
  if (event.key === "?") help.showModal();
  else if (state.image < 0 ? !listKey(event) : !viewerKey(event)) return;
  event.preventDefault();
}

/** Handle a key of the list; false for others. */
function listKey(event) {
  if (event.key === "/") byId("filter-name").focus();
  else if (["j", "k", "ArrowDown", "ArrowUp"].includes(event.key) && !event.shiftKey) moveInList(STEPS[event.key]);
  else return false;
  return true;
}

/** Handle a key of the viewer; false for others. */
function viewerKey(event) {
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
  const [width, height] = viewSize();
  if (digit) choose(event.shiftKey ? "left" : "right", Number(digit[1]) - 1);
  else if (event.shiftKey && event.key in DIRECTIONS) moveRegion(...DIRECTIONS[event.key]);
  else if (event.key in STEPS) step(STEPS[event.key]);
  else if (event.key in PANS) pan(PANS[event.key][0] * width * 0.15, PANS[event.key][1] * height * 0.15);
  else if (event.key in VIEWER_KEYS) VIEWER_KEYS[event.key]();
  else return false;
  return true;
}

document.addEventListener("keydown", onKey);

// ----------------------------------------------------------------------------------------------------------- start

new ResizeObserver(() => {
  if (state.image >= 0) settle();
}).observe(viewport);
new ResizeObserver(draw).observe(byId("crops"));
for (const name of ["hashchange", "popstate"]) {
  window.addEventListener(name, () => {
    readAddress();
    render();
  });
}

buildList();
buildViewer();
readAddress();
render();
