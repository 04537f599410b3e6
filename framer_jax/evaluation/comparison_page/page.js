"use strict";
// The data of the page, what is shown (kept in the address), and helpers. list.js, viewer.js and controls.js follow.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("page-data").textContent);
const names = data.images.map((image) => image.name);

const MAX_ZOOM = 16;
const PIXELATED_FROM = 4;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** An element with properties, attributes (names with "-" or role) and children (elements or text). */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

const arrow = (metric) => (metric.higher ? "↑" : "↓");
const shown = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const signed = (value, digits) => {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : (value < 0 ? "−" : "+") + text;
};

/** Whether one score is better than another; false if one is missing. */
function isBetter(metric, score, other) {
  if (score === null || other === null) return false;
  return metric.higher ? score > other : score < other;
}

/** Indices of the best scores among those of the methods; none if all are equal. */
function bestOf(metric, scores) {
  const present = scores.filter((score) => score !== null);
  if (present.length < 2) return [];
  const best = metric.higher ? Math.max(...present) : Math.min(...present);
  if (present.every((score) => score === best)) return [];
  return scores.flatMap((score, index) => (score === best ? [index] : []));
}

// ---------------------------------------------------------------------------------------------------------- state

const last = data.sources.length - 1;
const initial = () => ({
  image: -1, // -1: the list
  left: 0,
  right: Math.min(1, last),
  split: 50, // percent of the visible part of the image
  zoom: 0, // CSS pixels per image pixel; 0: the whole image
  x: 0, // image pixel in the middle of the viewport, if zoom is not 0
  y: 0,
  crop: null, // [x, y, size]; null: where the methods disagree most
  sort: "", // "", "name", "difference" or "METRIC.METHOD"
  descending: false,
  name: "",
  better: -1, // -1: any
  than: 0,
  metric: 0,
});
const state = initial();

const integer = (text, low, high, otherwise) => {
  const value = Number(text);
  return text !== null && text !== "" && Number.isInteger(value) && value >= low && value <= high ? value : otherwise;
};
const finite = (text, low, high, otherwise) => {
  const value = Number(text);
  return text !== null && text !== "" && Number.isFinite(value) ? clamp(value, low, high) : otherwise;
};

/** Read the state from the address; what is missing or makes no sense has its initial value. */
function readAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, initial());
  state.image = names.indexOf(values.get("image"));
  state.left = integer(values.get("left"), 1, last + 1, state.left + 1) - 1;
  state.right = integer(values.get("right"), 1, last + 1, state.right + 1) - 1;
  state.split = finite(values.get("split"), 0, 100, state.split);
  const image = data.images[state.image];
  if (image) {
    state.zoom = finite(values.get("zoom"), 0, MAX_ZOOM, 0);
    const [x, y] = (values.get("at") || "").split(",");
    state.x = finite(x ?? "", 0, image.width, image.width / 2);
    state.y = finite(y ?? "", 0, image.height, image.height / 2);
    const [left, top, size] = (values.get("crop") || "").split(",").map((text) => integer(text, 0, 1e6, -1));
    if (size > 0 && left + size <= image.width && top + size <= image.height) state.crop = [left, top, size];
  }
  const sort = values.get("sort") || "";
  const [metric, method] = sort.split(".").map(Number);
  if (sort === "name" || sort === "difference" || (data.metrics[metric] && method >= 0 && method < data.methods)) {
    state.sort = sort;
  }
  state.descending = values.get("order") === "descending";
  state.name = values.get("name") || "";
  if (data.metrics.length) {
    state.better = integer(values.get("better"), 1, data.methods, 0) - 1;
    state.than = integer(values.get("than"), 1, data.methods, 1) - 1;
    state.metric = Math.max(0, data.metrics.findIndex((entry) => entry.id === values.get("by")));
  }
}

/** The address of the state; what has its initial value is left out. */
function address() {
  const values = new URLSearchParams();
  const start = initial();
  if (state.image >= 0) {
    values.set("image", names[state.image]);
    if (state.left !== start.left) values.set("left", state.left + 1);
    if (state.right !== start.right) values.set("right", state.right + 1);
    if (state.split !== start.split) values.set("split", Math.round(state.split * 10) / 10);
    if (state.zoom) {
      values.set("zoom", Math.round(state.zoom * 1000) / 1000);
      values.set("at", `${Math.round(state.x * 10) / 10},${Math.round(state.y * 10) / 10}`);
    }
    if (state.crop) values.set("crop", state.crop.join(","));
  }
  if (state.sort) values.set("sort", state.sort);
  if (state.descending) values.set("order", "descending");
  if (state.name) values.set("name", state.name);
  if (state.better >= 0) {
    values.set("better", state.better + 1);
    values.set("than", state.than + 1);
    values.set("by", data.metrics[state.metric].id);
  }
  return `#${values}`;
}

let pendingAddress = 0;

/** Write the state into the address, after a pause: browsers limit how often it may change. */
function keepAddress() {
  clearTimeout(pendingAddress);
  pendingAddress = setTimeout(writeAddress, 200);
}

function writeAddress() {
  clearTimeout(pendingAddress);
  if (address() !== location.hash && address() !== location.hash + "#") history.replaceState(null, "", address());
}

/** Show an image, or the list (-1), as a new entry of the browser's history. */
function navigate(image) {
  writeAddress();
  Object.assign(state, {image, zoom: 0, crop: null});
  history.pushState(null, "", address());
  render();
  if (image >= 0) viewport.focus({preventScroll: true});
}

/** Show all that the state says. */
function render() {
  const isList = state.image < 0;
  byId("list").hidden = !isList;
  byId("viewer").hidden = isList;
  document.title = isList ? data.title : `${names[state.image]} – ${data.title}`;
  if (isList) showList();
  else showViewer();
}

const announce = (text) => {
  byId("announcement").textContent = text;
};
