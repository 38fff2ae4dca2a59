// Files that the page makes are handed to the browser as a download; nothing is fetched.

const KEPT = 60000; // how long a download may take to begin, in ms

export function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT);
}

// Letters and digits of any script, so that the name is good on every system.
export function fileName(...parts) {
  const words = parts.map((part) =>
    part
      .replace(/[^\p{L}\p{N}]+/gu, " ")
      .trim()
      .slice(0, 60)
      .trim(),
  );
  return words.filter(Boolean).join(" ").replaceAll(" ", "-") || "regard";
}

// A spreadsheet would run a text that starts as a formula; an apostrophe before it makes it a text. Numbers stay numbers.
function cell(value) {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  const text = /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(value) ? "'" + value : value;
  return /[",\r\n\t']|^\s|\s$/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

// lines: any iterable of arrays of numbers and strings. Several parts, for no string is endless.
export function saveCsv(lines, ...names) {
  const parts = [];
  for (const line of lines) parts.push(line.map(cell).join(",") + "\r\n");
  save(fileName(...names) + ".csv", new Blob(parts, { type: "text/csv;charset=utf-8" }));
}
