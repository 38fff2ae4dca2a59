// The margins of the map: what each key receives, above it, and each query's entropy, at its right.

// Bars from a base line, one a cell; where cells are finer than pixels, the highest of each pixel.
function drawProfile(pen, values, along, depth, place) {
  const most = values.reduce((a, b) => Math.max(a, b), 0);
  if (most <= 0) return most;
  pen.fillStyle = cssColour("--profile");
  const steps = Math.min(values.length, Math.ceil(along));
  for (let step = 0; step < steps; step++) {
    const first = Math.floor((step * values.length) / steps);
    const last = Math.max(first + 1, Math.floor(((step + 1) * values.length) / steps));
    let value = 0;
    for (let at = first; at < last; at++) value = Math.max(value, values[at]);
    const length = (depth * value) / most;
    if (length > 0) place((step * along) / steps, along / steps, Math.max(length, 0.5));
  }
  return most;
}

function drawMargins(pen, geometry, data) {
  const { left, top, width, height, marginTop, marginRight } = geometry;
  const overlap = 0.4; // hides the seams between neighbouring bars
  pen.font = "11px system-ui, sans-serif";
  const received = drawProfile(pen, data.received, width, marginTop - 20, (at, thick, length) => {
    pen.fillRect(left + at, top - 4 - length, Math.max(thick, 0.6) + (thick < 3 ? overlap : -1), length);
  });
  const entropy = drawProfile(pen, data.entropy, height, marginRight - 20, (at, thick, length) => {
    pen.fillRect(left + width + 4, top + at, length, Math.max(thick, 0.6) + (thick < 3 ? overlap : -1));
  });
  pen.fillStyle = cssColour("--muted");
  pen.textAlign = "left";
  pen.textBaseline = "alphabetic";
  const mean = isPooled() ? "mean of each cell, " : "";
  pen.fillText("weight received by each key (" + mean + "0 to " + short(received) + ")", left, top - marginTop + 10);
  pen.save();
  pen.translate(left + width + marginRight - 10, top);
  pen.rotate(Math.PI / 2);
  pen.fillText("entropy of each query (0 to " + entropy.toFixed(2) + " nats)", 0, 0);
  pen.restore();
}

function short(value) {
  return value >= 100 ? Math.round(value).toLocaleString("en") : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
