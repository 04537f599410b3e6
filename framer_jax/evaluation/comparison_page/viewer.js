// The viewer: two images with a divider, zoom and pan, and the same region of all images.

const canvas = byId("canvas");
const viewport = byId("viewport");
const crops = []; // {canvas, figure, button, scores} of each source
const decoded = new Map(); // "image-source" → promise of a decoded image, the most recently used last
const ready = new Map(); // "image-source" → the decoded image

const THUMB = 16; // width of a slider's thumb in CSS pixels

const current = () => data.images[state.image];
const isLr = (source) => data.lr && source === last;

/** Decode an image, once; `ready` has it afterwards. */
function load(image, source) {
  const key = `${image}-${source}`;
  let promise = decoded.get(key);
  if (!promise) {
    const made = new Image();
    made.src = `data:${data.mime};base64,${byId(`image-${key}`).textContent}`;
    promise = made.decode().then(() => ready.set(key, made));
  }
  decoded.delete(key);
  decoded.set(key, promise);
  // Decoded images are large: three images with all their sources are kept.
  const kept = 3 * data.sources.length;
  for (const old of decoded.keys()) {
    if (decoded.size <= kept) break;
    decoded.delete(old);
    ready.delete(old);
  }
  return promise;
}

// ------------------------------------------------------------------------------------------------------- geometry

/** Width and height of the viewport in CSS pixels. */
const viewSize = () => [viewport.clientWidth, viewport.clientHeight];

function fitZoom() {
  const [width, height] = viewSize();
  return Math.min(width / current().width, height / current().height, MAX_ZOOM) || 1;
}

/** CSS pixels per image pixel, and the position of the image's top left corner in the viewport. */
function geometry() {
  const [width, height] = viewSize();
  const zoom = state.zoom || fitZoom();
  const middle = state.zoom ? [state.x, state.y] : [current().width / 2, current().height / 2];
  const ratio = devicePixelRatio || 1;
  const whole = (value) => Math.round(value * ratio) / ratio; // edges of pixels stay sharp
  return {zoom, left: whole(width / 2 - middle[0] * zoom), top: whole(height / 2 - middle[1] * zoom)};
}

/** The visible part of the image in CSS pixels of the viewport: [left, top, right, bottom]. */
function visible() {
  const [width, height] = viewSize();
  const {zoom, left, top} = geometry();
  return [
    Math.max(0, left), Math.max(0, top), Math.min(width, left + current().width * zoom),
    Math.min(height, top + current().height * zoom),
  ];
}

/** Position of the divider in CSS pixels of the viewport. */
function dividerX() {
  const [left, , right] = visible();
  return left + ((right - left) * state.split) / 100;
}

/** Change the zoom so that the image stays where it is under a point of the viewport (by default its middle). */
function zoomTo(zoom, point = viewSize().map((side) => side / 2)) {
  const before = geometry();
  const fit = fitZoom();
  const target = clamp(zoom, Math.min(fit, 1), MAX_ZOOM);
  const [x, y] = [(point[0] - before.left) / before.zoom, (point[1] - before.top) / before.zoom];
  const [width, height] = viewSize();
  state.zoom = Math.abs(target / fit - 1) < 0.001 ? 0 : target;
  state.x = x - (point[0] - width / 2) / target;
  state.y = y - (point[1] - height / 2) / target;
  settle();
}

/** Keep the image in the viewport and the region of the crops in what is visible, then draw. */
function settle() {
  const [width, height] = viewSize();
  const {width: columns, height: lines} = current();
  if (state.zoom) {
    const inside = (middle, view, side) => {
      const half = view / state.zoom / 2;
      return side <= 2 * half ? side / 2 : clamp(middle, half, side - half);
    };
    state.x = inside(state.x, width, columns);
    state.y = inside(state.y, height, lines);
    const {zoom, left, top} = geometry();
    const [x, y, size] = region();
    const part = visible();
    const middle = [clamp(x + size / 2, (part[0] - left) / zoom, (part[2] - left) / zoom),
      clamp(y + size / 2, (part[1] - top) / zoom, (part[3] - top) / zoom)];
    if (middle[0] !== x + size / 2 || middle[1] !== y + size / 2) placeRegion(...middle, size);
  }
  draw();
  keepAddress();
}

const ZOOMS = [0.125, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16];

function zoomStep(direction) {
  const {zoom} = geometry();
  const next = direction > 0 ? ZOOMS.find((value) => value > zoom * 1.01) : ZOOMS.findLast((value) => value < zoom * 0.99);
  zoomTo(next ?? zoom);
}

function pan(dx, dy) {
  if (!state.zoom) return;
  state.x += dx / state.zoom;
  state.y += dy / state.zoom;
  settle();
}

// --------------------------------------------------------------------------------------------------------- region

/** [x, y, size] of the region of the crops. */
const region = () => state.crop || current().crop;

/** Place the region with its middle at an image position, within the image. */
function placeRegion(middleX, middleY, size = region()[2]) {
  const {width, height} = current();
  const side = Math.min(size, width, height);
  const start = (middle, length) => Math.round(clamp(middle - side / 2, 0, length - side));
  state.crop = [start(middleX, width), start(middleY, height), side];
}

function moveRegion(columns, lines) {
  const [x, y, size] = region();
  const step = Math.max(1, Math.round(size / 8));
  placeRegion(x + size / 2 + columns * step, y + size / 2 + lines * step);
  draw();
  keepAddress();
}

// -------------------------------------------------------------------------------------------------------- drawing

let pendingDraw = 0;

/** Draw with the next frame of the screen. */
function draw() {
  if (!pendingDraw) pendingDraw = requestAnimationFrame(drawNow);
}

/** Fit a canvas to its element and return its context, in CSS pixels. */
function contextOf(target, width, height) {
  const ratio = devicePixelRatio || 1;
  const [columns, lines] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (target.width !== columns || target.height !== lines) Object.assign(target, {width: columns, height: lines});
  const context = target.getContext("2d", {alpha: true});
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Draw a source of the current image, all of it, with its top left corner at a position. */
function drawSource(context, source, left, top, zoom) {
  const image = ready.get(`${state.image}-${source}`);
  if (!image) return;
  context.imageSmoothingEnabled = zoom < PIXELATED_FROM && !isLr(source);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, left, top, current().width * zoom, current().height * zoom);
}

function drawNow() {
  pendingDraw = 0;
  if (state.image < 0) return;
  const [width, height] = viewSize();
  const context = contextOf(canvas, width, height);
  const {zoom, left, top} = geometry();
  const part = visible();
  const divider = dividerX();
  for (const [source, from, to] of [[state.left, 0, divider], [state.right, divider, width]]) {
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, height);
    context.clip();
    drawSource(context, source, left, top, zoom);
    context.restore();
  }
  drawFrame(context, left, top, zoom, width, height);
  byId("divider").style.transform = `translateX(${divider}px)`;
  byId("divider").style.top = `${part[1]}px`;
  byId("divider").style.height = `${part[3] - part[1]}px`;
  // The slider's thumb stays below the divider: its middle travels from half a thumb to half a thumb before the end.
  byId("split").style.marginLeft = `${part[0] - THUMB / 2}px`;
  byId("split").style.width = `${part[2] - part[0] + THUMB}px`;
  byId("tag-left").style.left = `${part[0] + 8}px`;
  byId("tag-right").style.right = `${width - part[2] + 8}px`;
  for (const id of ["tag-left", "tag-right"]) byId(id).style.top = `${part[1] + 8}px`;
  byId("zoom-value").textContent = `${Math.round(zoom * 100)} %`;
  byId("zoom-fit").setAttribute("aria-pressed", String(!state.zoom));
  viewport.classList.toggle("enlarged", isEnlarged());
  drawCrops();
}

/** The outline of the crops' region, unless it fills most of the viewport. */
function drawFrame(context, left, top, zoom, width, height) {
  const [x, y, size] = region();
  const side = size * zoom;
  if (side > 0.8 * Math.min(width, height)) return;
  const at = [left + x * zoom, top + y * zoom];
  context.lineWidth = 3;
  context.strokeStyle = "rgb(0 0 0 / 55%)";
  context.strokeRect(at[0] - 0.5, at[1] - 0.5, side + 1, side + 1);
  context.lineWidth = 1;
  context.strokeStyle = "white";
  context.strokeRect(at[0] - 0.5, at[1] - 0.5, side + 1, side + 1);
}

const isEnlarged = () => {
  const [width, height] = viewSize();
  const {zoom} = geometry();
  return current().width * zoom > width + 1 || current().height * zoom > height + 1;
};

const SMALLEST_CROP = 140; // CSS pixels

/** Arrange the crops in as few columns as show all of them without scrolling, or as many as their smallest size admits. */
function arrangeCrops() {
  const panel = byId("crops");
  const gap = parseFloat(getComputedStyle(panel).columnGap) || 0;
  const space = byId("crops").parentElement.getBoundingClientRect().bottom - panel.getBoundingClientRect().top - gap;
  const caption = Math.max(...crops.map((crop) => crop.figure.offsetHeight - crop.canvas.offsetHeight));
  const most = Math.max(1, Math.floor((panel.clientWidth + gap) / (SMALLEST_CROP + gap)));
  let columns = Math.min(most, 2);
  const sideBySide = getComputedStyle(byId("viewer")).display === "grid";
  const height = (count) =>
    Math.ceil(crops.length / count) * ((panel.clientWidth + gap) / count + caption) - gap;
  while (sideBySide && columns < most && height(columns) > space) columns++;
  if (!sideBySide) columns = most;
  panel.style.setProperty("--columns", Math.min(columns, crops.length));
}

function drawCrops() {
  arrangeCrops();
  const [x, y, size] = region();
  byId("crop-place").textContent = `at ${x}, ${y}`;
  crops.forEach((crop, source) => {
    const side = crop.canvas.clientWidth;
    const zoom = side / size;
    drawSource(contextOf(crop.canvas, side, side), source, -x * zoom, -y * zoom, zoom);
  });
}

// --------------------------------------------------------------------------------------------------------- content

/** A source's scores of the current image; with its differences from another source if both are methods. */
function scoreParts(source, from = -1) {
  if (source >= data.methods) return [];
  return data.metrics.map((metric, number) => {
    const scores = current().scores[number];
    const part = element("span", {className: "score"}, element("span", {className: "quiet"}, `${metric.id} `),
      shown(scores[source], metric.digits));
    if (bestOf(metric, scores).includes(source)) part.classList.add("best");
    if (from >= 0 && from < data.methods && from !== source && scores[from] !== null && scores[source] !== null) {
      const change = scores[source] - scores[from];
      const kind = change === 0 ? "" : isBetter(metric, scores[source], scores[from]) ? "gain" : "loss";
      part.append(" ", element("small", {className: kind}, signed(change, metric.digits)));
    }
    return part;
  });
}

function buildViewer() {
  const options = () => data.sources.map((label, source) =>
    element("option", {value: source}, source < 9 ? `${source + 1}  ${label}` : label));
  byId("left").append(...options());
  byId("right").append(...options());
  data.sources.forEach((label, source) => {
    const cropCanvas = element("canvas", {role: "img"});
    const button = element("button", {type: "button", title: "Show on the right (with Shift: on the left)"});
    if (source < 9) button.append(element("kbd", {}, source + 1), " ");
    button.append(label);
    button.addEventListener("click", (event) => choose(event.shiftKey ? "left" : "right", source));
    const scores = element("span", {className: "scores"});
    const figure = element("figure", {}, cropCanvas, element("figcaption", {}, button, scores));
    crops.push({canvas: cropCanvas, figure, button, scores});
    byId("crops").append(figure);
  });
}

/** Choose what is shown on a side, "left" or "right"; the other side changes places if it showed the same. */
function choose(side, source) {
  if (source > last) return;
  const other = side === "left" ? "right" : "left";
  if (state[other] === source) state[other] = state[side];
  state[side] = source;
  showViewer();
  keepAddress();
}

function setSplit(value) {
  state.split = clamp(value, 0, 100);
  byId("split").value = state.split;
  byId("split").setAttribute("aria-valuetext", splitText());
  draw();
  keepAddress();
}

const splitText = () =>
  `${Math.round(state.split)} % ${data.sources[state.left]}, ${Math.round(100 - state.split)} % ${data.sources[state.right]}`;

/** Go to the next (1) or previous (-1) image in the order of the list. */
function step(direction) {
  const position = order.indexOf(state.image);
  const target = position < 0 ? order[0] : order[position + direction];
  if (target === undefined) return;
  const [before, after] = [current(), data.images[target]];
  const sameSize = before.width === after.width && before.height === after.height;
  state.image = target;
  state.crop = null;
  if (!sameSize) state.zoom = 0;
  showViewer();
  announce(`${names[target]}, ${order.indexOf(target) + 1} of ${order.length}`);
  keepAddress();
}

function showRegionSizes() {
  const {width, height, crop} = current();
  const largest = Math.min(width, height);
  const sides = new Set([16, 32, 48, 64, 96, 128, 192, 256, 384, 512, crop[2], region()[2]].filter((side) => side <= largest));
  const options = [...sides].sort((a, b) => a - b).map((side) => element("option", {value: side}, `${side} px`));
  byId("crop-size").replaceChildren(...options);
  byId("crop-size").value = region()[2];
}

/** Show the current image as the state says. */
function showViewer() {
  updateOrder();
  const position = order.indexOf(state.image);
  const image = current();
  byId("name").textContent = byId("name").title = image.name;
  byId("position").textContent = position < 0 ? `not in the list` : `${position + 1} of ${order.length}`;
  byId("previous").disabled = position === 0;
  byId("next").disabled = position === order.length - 1;
  byId("left").value = state.left;
  byId("right").value = state.right;
  for (const side of ["left", "right"]) {
    const source = state[side];
    byId(`tag-${side}`).textContent = data.sources[source];
    byId(`caption-${side}`).replaceChildren(element("strong", {}, data.sources[source]),
      ...scoreParts(source, side === "right" ? state.left : -1));
  }
  canvas.setAttribute("aria-label",
    `${image.name}: ${data.sources[state.left]} on the left, ${data.sources[state.right]} on the right`);
  crops.forEach((crop, source) => {
    crop.canvas.setAttribute("aria-label", `Region of ${data.sources[source]}`);
    crop.button.setAttribute("aria-pressed", String(source === state.right));
    crop.figure.classList.toggle("is-left", source === state.left);
    crop.figure.classList.toggle("is-right", source === state.right);
    crop.scores.replaceChildren(...scoreParts(source));
  });
  showRegionSizes();
  setSplit(state.split);
  settle();
  const shownImage = state.image;
  const failed = () => announce(`${image.name} cannot be decoded by this browser`);
  const all = data.sources.map((_, source) => load(state.image, source).then(draw));
  Promise.all(all).then(() => {
    if (state.image !== shownImage) return;
    const next = order[position + 1];
    if (next !== undefined) for (const source of [state.left, state.right]) load(next, source).catch(() => {});
  }).catch(failed);
}
