// The map of one head: cells, axes, margins, and the crosshair above them.

const LABELLED = 40;

function makeMap(holder, cells, cross) {
  let geometry = null;

  function measure() {
    const labelled = !isPooled() && page.rows <= LABELLED && page.cols <= LABELLED && page.key_tokens && page.query_tokens;
    const room = holder.clientWidth;
    const left = labelled ? 100 : 58;
    const marginTop = 58;
    const marginRight = 66;
    const bottom = labelled ? 92 : 40;
    const unit = window.devicePixelRatio || 1;
    const tallest = Math.max(280, window.innerHeight - 330);
    let width = Math.min(room - left - marginRight, (tallest * page.cols) / page.rows, 640);
    // Cells of whole device pixels where that costs little room: no cell is then wider than its neighbour.
    const whole = Math.floor((width * unit) / page.cols) * page.cols;
    if (whole > 0.8 * width * unit) width = whole / unit;
    let height = page.rows === page.cols ? width : Math.max(80, Math.min(tallest, (width * page.rows) / page.cols));
    geometry = { left, top: marginTop, width, height, marginTop, marginRight, bottom, labelled, unit };
    geometry.fullWidth = left + width + marginRight;
    geometry.fullHeight = marginTop + height + bottom;
    for (const canvas of [cells, cross]) {
      canvas.width = Math.round(geometry.fullWidth * unit);
      canvas.height = Math.round(geometry.fullHeight * unit);
      canvas.style.width = geometry.fullWidth + "px";
      canvas.style.height = geometry.fullHeight + "px";
    }
  }

  function pen(canvas) {
    const context = canvas.getContext("2d");
    context.setTransform(geometry.unit, 0, 0, geometry.unit, 0, 0);
    context.clearRect(0, 0, geometry.fullWidth, geometry.fullHeight);
    return context;
  }

  function draw(data, table) {
    if (!geometry) measure();
    const { left, top, width, height, unit } = geometry;
    const context = pen(cells);
    const small = document.createElement("canvas");
    small.width = page.cols;
    small.height = page.rows;
    const image = new ImageData(page.cols, page.rows);
    const pixels = new Uint32Array(image.data.buffer);
    for (let at = 0; at < pixels.length; at++) pixels[at] = table[data.codes[at]];
    small.getContext("2d").putImageData(image, 0, 0);
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = hatching(context, unit);
    const box = [left, top, width, height].map((length) => Math.round(length * unit));
    context.fillRect(...box);
    context.imageSmoothingEnabled = box[2] < page.cols || box[3] < page.rows;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, ...box);
    context.restore();
    context.strokeStyle = cssColour("--muted");
    context.lineWidth = 1;
    context.strokeRect(left - 0.5, top - 0.5, width + 1, height + 1);
    drawAxes(context);
    drawMargins(context, geometry, data);
  }

  function drawAxes(context) {
    const { left, top, width, height, labelled } = geometry;
    context.fillStyle = cssColour("--muted");
    context.font = labelled ? "11px ui-monospace, monospace" : "11px system-ui, sans-serif";
    const labels = (length, cellCount, tokens) =>
      labelled
        ? Array.from({ length: cellCount }, (_, at) => [at + 0.5, visible(tokens[at], 9)])
        : niceSteps(length).map((at) => [((at + 0.5) * cellCount) / length, at.toLocaleString("en")]);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [at, label] of labels(page.query_len, page.rows, page.query_tokens)) {
      context.fillText(label, left - 6, top + (at * height) / page.rows);
    }
    for (const [at, label] of labels(page.key_len, page.cols, page.key_tokens)) {
      context.save();
      context.translate(left + (at * width) / page.cols, top + height + 7);
      if (labelled) context.rotate(-Math.PI / 2);
      context.textAlign = labelled ? "right" : "center";
      context.textBaseline = labelled ? "middle" : "top";
      context.fillText(label, 0, 0);
      context.restore();
    }
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    context.fillStyle = cssColour("--ink");
    context.fillText("key (read from) \u2192", left + width / 2, geometry.fullHeight - 4);
    context.save();
    context.translate(12, top + height / 2);
    context.rotate(-Math.PI / 2);
    context.fillText("\u2190 query (reading)", 0, 0);
    context.restore();
  }

  // The crosshair, and a mark at the query that is kept.
  function point(row, col, kept) {
    const { left, top, width, height } = geometry;
    const context = pen(cross);
    const tall = height / page.rows;
    const wide = width / page.cols;
    const colour = cssColour("--cross");
    context.fillStyle = colour;
    const keptAt = top + (kept + 0.5) * tall;
    context.beginPath();
    context.moveTo(left - 1, keptAt);
    context.lineTo(left - 7, keptAt - 4);
    context.lineTo(left - 7, keptAt + 4);
    context.fill();
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.globalAlpha = 0.45;
    context.strokeRect(left, top + row * tall - 0.5, width + geometry.marginRight - 14, Math.max(tall, 1) + 1);
    if (col === null) return;
    context.strokeRect(left + col * wide - 0.5, top - geometry.marginTop + 16, Math.max(wide, 1) + 1, height + geometry.marginTop - 16);
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    const grow = Math.max(0, 3 - wide / 2);
    context.strokeRect(left + col * wide - grow, top + row * tall - grow, wide + 2 * grow, tall + 2 * grow);
  }

  // The cell below the pointer, or null.
  function cellAt(event) {
    const box = cells.getBoundingClientRect();
    const col = Math.floor(((event.clientX - box.left - geometry.left) / geometry.width) * page.cols);
    const row = Math.floor(((event.clientY - box.top - geometry.top) / geometry.height) * page.rows);
    return row >= 0 && row < page.rows && col >= 0 && col < page.cols ? { row, col } : null;
  }

  return { measure, draw, point, cellAt };
}

// Round numbers along an axis, about six of them.
function niceSteps(length) {
  const rough = length / 6;
  const power = Math.pow(10, Math.floor(Math.log10(Math.max(rough, 1))));
  const step = Math.max(1, [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) || 1);
  const steps = [];
  for (let at = 0; at < length; at += step) steps.push(at);
  return steps;
}
