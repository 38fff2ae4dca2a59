// The data of the page; look/data.py says what they are.

const page = JSON.parse(document.getElementById("data").textContent);
const ramp = bytesOf(page.ramp);
const unpacked = new Map();

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

async function inflate(base64) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// One head: its map, margins and strongest keys, unpacked when first asked for.
async function headData(index) {
  if (unpacked.has(index)) return unpacked.get(index);
  const head = page.heads[index];
  const buffer = await inflate(head.data);
  const { rows, cols, top } = page;
  let at = 0;
  const wordsOf = (count) => {
    const part = new Uint16Array(buffer, at, count);
    at += 2 * count;
    return part;
  };
  const data = {
    head,
    topColumns: wordsOf(rows * top),
    topShares: wordsOf(rows * top),
    entropy: Float64Array.from(wordsOf(rows), (code) => (code / 65535) * head.entropy_max),
    received: Float64Array.from(wordsOf(cols), (code) => (code / 65535) * head.received_max),
    codes: new Uint8Array(buffer, at, rows * cols),
  };
  data.highest = data.codes.reduce((most, code) => Math.max(most, code), 0);
  if (unpacked.size > 48) unpacked.delete(unpacked.keys().next().value);
  unpacked.set(index, data);
  return data;
}

// The weight of a cell: exact to 1e-5 if it is one of the row's strongest, to 2.3 % otherwise.
function cellWeight(data, row, col) {
  const code = data.codes[row * page.cols + col];
  if (code === FORBIDDEN) return { forbidden: true, weight: 0, exact: true };
  for (let k = 0; k < page.top; k++) {
    if (data.topColumns[row * page.top + k] === col) {
      return { forbidden: false, weight: data.topShares[row * page.top + k] / 65535, exact: true };
    }
  }
  return { forbidden: false, weight: weightOf(code, page.floor), exact: false };
}

// The tokens that a cell covers, as [first, past the last].
function span(cell, cells, length) {
  return [Math.floor((cell * length) / cells), Math.floor(((cell + 1) * length) / cells)];
}

function isPooled() {
  return page.rows !== page.query_len || page.cols !== page.key_len;
}

function cellName() {
  const side = (length, cells) => {
    const low = Math.floor(length / cells);
    const high = Math.ceil(length / cells);
    return low === high ? low.toLocaleString("en") : low.toLocaleString("en") + "\u2013" + high.toLocaleString("en");
  };
  return "1 cell = " + side(page.query_len, page.rows) + " \u00d7 " + side(page.key_len, page.cols) + " tokens";
}

function weightText(found) {
  if (found.forbidden) return "may not attend";
  const { weight, exact } = found;
  if (weight <= page.floor) return "\u2264 " + page.floor.toFixed(5);
  const digits = weight >= 0.1 ? 3 : weight >= 0.01 ? 4 : 5;
  return exact ? weight.toFixed(digits) : "\u2248 " + weight.toFixed(digits - 1 + (weight < 0.01 ? 1 : 0));
}
