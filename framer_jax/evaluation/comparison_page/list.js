// The list: means, filter, and a sortable table of all images.

let order = []; // indices of the images that match the filter, as sorted; the viewer follows it
const rows = []; // the table row of each image

const scoreOf = (image, metric, method) => data.images[image].scores[metric][method];

/** How much better (positive) or worse one method is than the other on an image, by the filter's metric. */
function gain(image) {
  const first = scoreOf(image, state.metric, state.than);
  const second = scoreOf(image, state.metric, state.better);
  return first === null || second === null ? null : second - first;
}

function matches(image) {
  if (!names[image].toLowerCase().includes(state.name.trim().toLowerCase())) return false;
  if (state.better < 0) return true;
  const metric = data.metrics[state.metric];
  return isBetter(metric, scoreOf(image, state.metric, state.better), scoreOf(image, state.metric, state.than));
}

const naturally = new Intl.Collator(undefined, {numeric: true}).compare;

/** What an image is sorted by; null comes last in both directions. */
function sortValue(image) {
  if (state.sort === "difference") return state.better < 0 ? null : gain(image);
  const [metric, method] = state.sort.split(".").map(Number);
  return scoreOf(image, metric, method);
}

function sorted(images) {
  const sign = state.descending ? -1 : 1;
  if (state.sort === "") return images;
  if (state.sort === "name") return images.sort((a, b) => sign * naturally(names[a], names[b]) || a - b);
  return images.sort((a, b) => {
    const [first, second] = [sortValue(a), sortValue(b)];
    if (first === null || second === null) return (first === null) - (second === null) || a - b;
    return sign * (first - second) || a - b;
  });
}

/** Match and sort the images anew. */
function updateOrder() {
  order = sorted(names.map((_, image) => image).filter(matches));
}

/** Sort by a column; again by the same one, in the other direction. The better scores come first at first. */
function sortBy(key) {
  if (state.sort === key) state.descending = !state.descending;
  else {
    state.sort = key;
    const metric = key === "difference" ? data.metrics[state.metric] : data.metrics[Number(key.split(".")[0])];
    state.descending = key !== "name" && metric.higher;
  }
  showList();
  keepAddress();
}

function sortHeader(key, text, properties = {}) {
  const header = element("th", {scope: "col", ...properties});
  const button = element("button", {type: "button", className: "sort"}, text);
  button.addEventListener("click", () => sortBy(key));
  header.dataset.key = key;
  header.append(button);
  return header;
}

function buildImages() {
  const table = byId("images");
  const groups = element("tr", {}, sortHeader("name", "Image", {rowSpan: 2}));
  const columns = element("tr");
  data.metrics.forEach((metric, index) => {
    groups.append(element("th", {scope: "colgroup", colSpan: data.methods, className: "group", title: metric.variant},
      `${metric.id} ${arrow(metric)}`));
    for (let method = 0; method < data.methods; method++) {
      const header = sortHeader(`${index}.${method}`, data.sources[method]);
      if (!method) header.className = "first";
      columns.append(header);
    }
  });
  if (data.metrics.length) groups.append(sortHeader("difference", "Difference", {rowSpan: 2, className: "difference first"}));
  const body = element("tbody");
  data.images.forEach((image, index) => body.append(buildRow(image, index)));
  table.append(element("thead", {}, groups, columns), body);
}

function buildRow(image, index) {
  const thumbnail = element("img", {
    alt: "", loading: "lazy", decoding: "async", width: 48, height: 48, src: `data:image/webp;base64,${image.thumbnail}`,
  });
  const link = element("a", {href: `#${new URLSearchParams({image: image.name})}`, draggable: false}, thumbnail,
    element("span", {}, image.name));
  const row = element("tr", {}, element("th", {scope: "row"}, link));
  data.metrics.forEach((metric, number) => {
    const best = bestOf(metric, image.scores[number]);
    image.scores[number].forEach((score, method) => {
      const cell = element("td", {}, shown(score, metric.digits));
      if (best.includes(method)) cell.classList.add("best");
      if (!method) cell.classList.add("first");
      row.append(cell);
    });
  });
  if (data.metrics.length) row.append(element("td", {className: "difference first"}));
  row.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button || getSelection().toString()) return;
    event.preventDefault();
    navigate(index);
  });
  rows.push(row);
  return row;
}

function buildSummary() {
  byId("summary-section").hidden = !data.metrics.length;
  if (!data.metrics.length) return;
  const groups = element("tr", {}, element("th", {scope: "col", rowSpan: 2}, "Method"));
  const columns = element("tr");
  for (const metric of data.metrics) {
    groups.append(element("th", {scope: "colgroup", colSpan: 3, className: "group", title: metric.variant},
      `${metric.id} ${arrow(metric)}`));
    columns.append(element("th", {scope: "col", className: "first"}, "mean"), element("th", {scope: "col"}, "difference"),
      element("th", {scope: "col"}, "better"));
  }
  const body = element("tbody");
  for (let method = 0; method < data.methods; method++) {
    const row = element("tr", {}, element("th", {scope: "row"}, data.sources[method]));
    data.metrics.forEach((metric, number) => row.append(...summaryCells(metric, number, method)));
    body.append(row);
  }
  byId("summary").append(element("thead", {}, groups, columns), body);
  byId("summary-note").textContent = `Small: 95 % bootstrap intervals over images. Differences are from ${data.sources[0]}; ` +
    "“better” counts the images on which a method is better than it.";
}

const interval = (entry, digits, format) =>
  entry.low === null ? "" : `${format(entry.low, digits)} to ${format(entry.high, digits)}`;

function summaryCells(metric, number, method) {
  const means = data.summary[number].map((entry) => entry.mean);
  const mean = data.summary[number][method];
  const first = element("td", {className: "first"}, element("strong", {}, shown(mean.mean, metric.digits)),
    element("small", {}, interval(mean, metric.digits, shown)));
  if (bestOf(metric, means).includes(method)) first.classList.add("best");
  if (!method) return [first, element("td", {}, "–"), element("td", {}, "–")];
  const entry = data.differences[number][method - 1];
  const isGain = metric.higher ? entry.mean > 0 : entry.mean < 0;
  const certain = entry.low !== null && entry.low * entry.high > 0;
  const change = element("td", {}, element("span", {}, signed(entry.mean, metric.digits)),
    element("small", {}, interval(entry, metric.digits, signed)));
  if (certain) change.classList.add(isGain ? "gain" : "loss");
  const p = entry.p_value < 0.001 ? "p < 0.001" : `p = ${entry.p_value.toFixed(3)}`;
  return [first, change, element("td", {}, `${entry.better} of ${entry.images}`, element("small", {}, p))];
}

function buildFilters() {
  byId("filter-pair").hidden = !data.metrics.length;
  const methods = data.sources.slice(0, data.methods);
  const options = (labels) => labels.map((label, index) => element("option", {value: index}, label));
  byId("filter-better").append(element("option", {value: -1}, "any method"), ...options(methods));
  byId("filter-than").append(...options(methods));
  byId("filter-metric").append(...options(data.metrics.map((metric) => metric.id)));
  const changed = () => {
    showList();
    keepAddress();
  };
  byId("filter-name").addEventListener("input", (event) => {
    state.name = event.target.value;
    changed();
  });
  for (const part of ["better", "than", "metric"]) {
    byId(`filter-${part}`).addEventListener("change", (event) => {
      state[part] = Number(event.target.value);
      // A method is not better than itself: the other choice moves on.
      if (part === "better" && state.better === state.than) state.than = state.better ? 0 : Math.min(1, data.methods - 1);
      if (part === "than" && state.better === state.than) state.better = state.than ? 0 : Math.min(1, data.methods - 1);
      changed();
    });
  }
  byId("filter-clear").addEventListener("click", () => {
    Object.assign(state, {name: "", better: -1});
    changed();
    byId("filter-name").focus();
  });
}

function buildList() {
  byId("title").textContent = data.title;
  const methods = data.sources.slice(0, data.methods).join(", ");
  byId("counts").textContent = `${data.images.length} image${data.images.length === 1 ? "" : "s"}: ${methods}`;
  for (const [heading, text] of data.facts) byId("facts").append(element("dt", {}, heading), element("dd", {}, text));
  buildSummary();
  buildFilters();
  buildImages();
}

/** Show the list as the state filters and sorts it. */
function showList() {
  updateOrder();
  const filtered = state.better >= 0;
  if (byId("filter-name").value !== state.name) byId("filter-name").value = state.name;
  byId("filter-better").value = state.better;
  byId("filter-than").value = state.than;
  byId("filter-metric").value = state.metric;
  byId("filter-than").disabled = byId("filter-metric").disabled = !filtered;
  byId("filter-clear").hidden = !filtered && !state.name;
  const all = data.images.length;
  byId("matches").textContent = order.length === all ? `${all} shown` : `${order.length} of ${all} shown`;
  byId("no-match").hidden = order.length > 0;
  byId("images").classList.toggle("with-difference", filtered);
  rows.forEach((row, image) => {
    row.hidden = true;
    const value = filtered ? gain(image) : null;
    const cell = row.querySelector("td.difference");
    if (cell) cell.textContent = filtered ? signed(value, data.metrics[state.metric].digits) : "";
  });
  const body = byId("images").tBodies[0];
  for (const image of order) {
    rows[image].hidden = false;
    body.append(rows[image]);
  }
  for (const header of byId("images").querySelectorAll("th[data-key]")) {
    const active = header.dataset.key === state.sort;
    header.setAttribute("aria-sort", active ? (state.descending ? "descending" : "ascending") : "none");
    if (header.dataset.key === "difference" && filtered) {
      header.firstChild.textContent = `${data.metrics[state.metric].id}: ${data.sources[state.better]} − ${data.sources[state.than]}`;
    }
  }
}

/** Move the focus to the next (1) or previous (-1) image of the list. */
function moveInList(step) {
  const focused = order.findIndex((image) => rows[image].contains(document.activeElement));
  const target = focused < 0 ? (step > 0 ? 0 : order.length - 1) : clamp(focused + step, 0, order.length - 1);
  if (order.length) rows[order[target]].querySelector("a").focus();
}
