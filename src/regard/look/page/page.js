// What is chosen, and who draws it.

const byId = (id) => document.getElementById(id);

const state = { head: 0, scale: "log", row: 0, col: null, kept: null, data: null };

const overview = makeOverview(byId("tiles"), chooseHead);
const map = makeMap(byId("map"), byId("cells"), byId("cross"));
const text = makeText(byId("tokens"), byId("text-about"), { low: byId("text-low"), high: byId("text-high") }, byId("top-name"), byId("top"), keepQuery);

function range() {
  const highest = state.data ? state.data.topShares.reduce((a, b) => Math.max(a, b), 0) / 65535 : 1;
  return { floor: page.floor, logFloor: page.log_floor, highest };
}

function tokenAt(tokens, cell, cells, length) {
  const [from, to] = span(cell, cells, length);
  const parts = [];
  if (to - from === 1) parts.push(from.toLocaleString("en"));
  else parts.push(from.toLocaleString("en") + "\u2013" + (to - 1).toLocaleString("en"));
  if (tokens) parts.push(" ", tokenElement(tokens.slice(from, Math.min(to, from + 8)).join(""), 24));
  return parts;
}

// The column where a query itself stands among the keys, of which the queries are the last.
function ownColumn(row) {
  const position = Math.floor(((row + 0.5) * page.query_len) / page.rows) + page.key_len - page.query_len;
  return Math.max(0, Math.min(page.cols - 1, Math.floor(((position + 0.5) * page.cols) / page.key_len)));
}

// The query to show first: of the later ones, the one that gives the most to a key that is not right before it.
function tellingQuery(data) {
  let best = page.rows - 1;
  let most = 0;
  for (let row = page.rows >> 1; row < page.rows; row++) {
    const share = data.topShares[row * page.top];
    if (share > most && Math.abs(ownColumn(row) - data.topColumns[row * page.top]) > 2) [best, most] = [row, share];
  }
  return best;
}

async function chooseHead(index) {
  state.head = index;
  overview.mark(index);
  const data = await headData(index);
  if (state.head !== index) return;
  if (state.kept === null) state.kept = tellingQuery(data);
  state.data = data;
  const { layer, head, scores } = data.head;
  byId("head-name").textContent = "Layer " + layer + ", head " + head;
  byId("scores").replaceChildren(
    ...page.statistics.map(({ name, label, unit, decimals, about }) => {
      const entry = element("div");
      const value = scores[name];
      entry.title = about;
      entry.append(
        element("dt", "", label),
        element("dd", "", value === null ? "\u2013" : value.toFixed(decimals) + (unit ? " " + unit : "")),
      );
      return entry;
    }),
  );
  drawHead();
}

function drawHead() {
  if (!state.data) return;
  const scaling = range();
  const dark = isDark();
  map.draw(state.data, colourTable(ramp, state.scale, scaling, dark));
  byId("legend-low").textContent = state.scale === "log" ? "\u2264 " + page.log_floor : "0";
  byId("legend-high").textContent = state.scale === "log" ? "1" : scaling.highest.toFixed(3);
  byId("legend-name").textContent =
    "weight, " + state.scale + " scale" + (isPooled() ? "; " + cellName() + ", summed over its keys" : "");
  drawBar(byId("bar"), 1, dark);
  drawBar(byId("text-bar"), TEXT_RAMP, dark);
  for (const scale of ["log", "linear"]) byId(scale).setAttribute("aria-pressed", String(state.scale === scale));
  point(state.kept, state.col);
}

function drawBar(canvas, part, dark) {
  const pen = canvas.getContext("2d");
  for (let x = 0; x < 256; x++) {
    pen.fillStyle = "rgb(" + rampColour(ramp, (part * x) / 255, dark).join(",") + ")";
    pen.fillRect(x, 0, 1, 1);
  }
}

// Tells what a query reads; col is null while only a query is chosen.
function point(row, col) {
  state.row = row;
  state.col = col;
  map.point(row, col, state.kept);
  text.colour(state.data, row, state.scale, isDark());
  text.follow();
  const query = tokenAt(page.query_tokens, row, page.rows, page.query_len);
  text.strongest(state.data, row, "What query " + query[0] + " reads most");
  const readout = byId("readout");
  const entropy = "entropy " + state.data.entropy[row].toFixed(2) + " nats";
  if (col === null) readout.replaceChildren("query ", ...query, " \u00b7 " + entropy);
  else {
    const found = cellWeight(state.data, row, col);
    readout.replaceChildren(
      element("b", "", weightText(found)),
      "  query ",
      ...query,
      " \u2192 key ",
      ...tokenAt(page.key_tokens, col, page.cols, page.key_len),
      element("span", "muted", " \u00b7 " + entropy + (isPooled() ? " \u00b7 " + cellName() : "")),
    );
  }
}

function keepQuery(row) {
  state.kept = row;
  point(row, state.col);
}

function setScale(scale) {
  state.scale = scale;
  drawHead();
  drawOverview();
}

// The thumbnails stay logarithmic: heads are compared there, and a linear scale would need one highest weight for all.
function drawOverview() {
  return overview.draw(colourTable(ramp, "log", range(), isDark()));
}

function arrange() {
  const statistic = page.statistics.find(({ name }) => name === byId("statistic").value);
  overview.arrange(statistic, byId("sorted").checked);
  byId("about").textContent = statistic ? statistic.about : "";
  overview.mark(state.head);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  drawOverview();
  drawHead();
}

function moveInMap(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (event.key === "Enter") keepQuery(state.row);
  else if (event.key in steps) {
    const [down, right] = steps[event.key];
    const clamp = (value, most) => Math.max(0, Math.min(most - 1, value));
    const col = state.col === null ? ownColumn(state.row) : state.col;
    point(clamp(state.row + down, page.rows), clamp(col + right, page.cols));
  } else return;
  event.preventDefault();
  event.stopPropagation();
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select, input")) return;
  const widest = Math.max(...page.heads.map(({ head }) => head)) + 1;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -widest, ArrowDown: widest };
  if (event.key in steps) {
    overview.step(state.head, steps[event.key]);
    event.preventDefault();
  } else if (event.key === "l" || event.key === "L") setScale(state.scale === "log" ? "linear" : "log");
}

function listen() {
  const holder = byId("map");
  let waiting = null;
  holder.addEventListener("pointermove", (event) => {
    const found = map.cellAt(event);
    if (waiting === null) requestAnimationFrame(() => {
      const next = waiting;
      waiting = null;
      if (next.found) point(next.found.row, next.found.col);
    });
    waiting = { found };
  });
  holder.addEventListener("pointerleave", () => state.data && point(state.kept, null));
  holder.addEventListener("click", (event) => {
    const found = map.cellAt(event);
    if (found) {
      state.kept = found.row;
      point(found.row, found.col);
    }
  });
  holder.addEventListener("keydown", moveInMap);
  document.addEventListener("keydown", onKey);
  byId("log").addEventListener("click", () => setScale("log"));
  byId("linear").addEventListener("click", () => setScale("linear"));
  byId("statistic").addEventListener("change", arrange);
  byId("sorted").addEventListener("change", arrange);
  byId("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  const preference = matchMedia("(prefers-color-scheme: dark)");
  preference.addEventListener("change", () => setTheme(preference.matches ? "dark" : "light"));
  window.addEventListener("resize", () => {
    map.measure();
    drawHead();
  });
}

async function start() {
  if (page.schema !== "regard.look/1") throw new Error("these data are " + page.schema + "; this page reads regard.look/1");
  document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  document.title = page.title;
  byId("title").textContent = page.title;
  byId("source").textContent = page.source;
  byId("notes").replaceChildren(...page.notes.map((note) => element("li", "", note)));
  byId("guide").replaceChildren(...page.guide.map((sentence) => element("li", "", sentence)));
  byId("statistic").replaceChildren(...page.statistics.map(({ name, label }) => {
    const option = element("option", "", label);
    option.value = name;
    return option;
  }));
  byId("text").hidden = !page.key_tokens;
  state.head = page.heads.findIndex(({ layer, head }) => layer === page.selected[0] && head === page.selected[1]);
  listen();
  arrange();
  await Promise.all([drawOverview(), chooseHead(Math.max(0, state.head))]);
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  const failure = byId("failure");
  failure.hidden = false;
  failure.textContent = "The page could not be drawn: " + error.message;
  throw error;
});
