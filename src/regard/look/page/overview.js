// All heads at a glance: a thumbnail each, and below it a bar with the chosen statistic.

function makeOverview(container, choose) {
  const perLayer = new Map();
  for (const head of page.heads) perLayer.set(head.layer, (perLayer.get(head.layer) || 0) + 1);
  const widest = Math.max(...perLayer.values());
  const tiles = page.heads.map((head, index) => makeTile(head, index));
  const [rows, cols] = page.thumbnail;
  let order = page.heads.map((_, index) => index);
  let thumbnails = null;

  function makeTile(head, index) {
    const tile = element("button", "tile");
    tile.type = "button";
    tile.tabIndex = -1;
    const canvas = document.createElement("canvas");
    canvas.width = page.thumbnail[1];
    canvas.height = page.thumbnail[0];
    const track = element("span", "track");
    const fill = element("span", "fill");
    const caption = element("span", "caption");
    const value = element("span");
    caption.append(element("span", "", head.layer + "." + head.head), value);
    track.append(fill);
    tile.append(canvas, track, caption);
    tile.addEventListener("click", () => choose(index));
    tile.addEventListener("keydown", (event) => move(event, index));
    return { tile, canvas, fill, value, caption };
  }

  function move(event, index) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -widest, ArrowDown: widest };
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    step(index, steps[event.key]);
    focus();
  }

  function step(index, by) {
    const next = order.indexOf(index) + by;
    if (next >= 0 && next < order.length) choose(order[next]);
  }

  function focus() {
    const marked = tiles.find(({ tile }) => tile.getAttribute("aria-pressed") === "true");
    if (marked) marked.tile.focus();
  }

  async function draw(table) {
    if (!thumbnails) thumbnails = new Uint8Array(await inflate(page.thumbnails));
    tiles.forEach(({ canvas }, index) => {
      const image = new ImageData(cols, rows);
      const pixels = new Uint32Array(image.data.buffer);
      const start = index * rows * cols;
      for (let at = 0; at < pixels.length; at++) pixels[at] = table[thumbnails[start + at]];
      canvas.getContext("2d").putImageData(image, 0, 0);
    });
  }

  // Lays the tiles out by layer, or ranked by a statistic, the most telling first.
  function arrange(statistic, sorted) {
    const values = page.heads.map((head) => (statistic ? head.scores[statistic.name] : null));
    const known = values.filter((value) => value !== null);
    const least = Math.min(...known);
    const most = Math.max(...known);
    const lowFirst = statistic && statistic.name === "entropy";
    const rank = (index) => (values[index] === null ? Infinity : lowFirst ? values[index] : -values[index]);
    order = page.heads.map((_, index) => index);
    if (sorted) order.sort((a, b) => rank(a) - rank(b) || a - b);
    tiles.forEach(({ tile, fill, value, caption }, index) => {
      const head = page.heads[index];
      const shown = values[index] === null ? "\u2013" : values[index].toFixed(statistic.decimals);
      const share = values[index] === null || most === 0 ? 0 : values[index] / most;
      fill.style.width = (100 * Math.max(0, share)).toFixed(1) + "%";
      value.textContent = shown;
      caption.hidden = widest > 8;
      const what = "layer " + head.layer + ", head " + head.head + (statistic ? ", " + statistic.label + " " + shown : "");
      tile.title = what;
      tile.setAttribute("aria-label", what);
    });
    container.style.gridTemplateColumns = "repeat(" + widest + ", minmax(" + (widest > 16 ? 16 : 22) + "px, 76px))";
    container.replaceChildren(...order.map((index) => tiles[index].tile));
    if (!sorted) placeByLayer();
    else tiles.forEach(({ tile }) => (tile.style.gridColumn = "auto"));
    return { least, most };
  }

  // A layer starts a row of its own, also where layers differ in their number of heads.
  function placeByLayer() {
    tiles.forEach(({ tile }, index) => {
      tile.style.gridColumn = String(page.heads[index].head + 1);
    });
  }

  function mark(index) {
    tiles.forEach(({ tile }, at) => {
      tile.setAttribute("aria-pressed", String(at === index));
      tile.tabIndex = at === index ? 0 : -1;
    });
  }

  return { draw, arrange, mark, step };
}
