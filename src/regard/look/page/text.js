// The text itself, coloured by what one query reads; a long one in a stretch around the query.
//
// The colours have a scale of their own, up to the most that this query gives: most weights of a long text are far below 1,
// and what matters here is how the tokens compare.

const STRETCH = 1500;
const EXCERPT = 24;
const TEXT_RAMP = 0.5;

function makeText(holder, about, legend, topName, topList, keep) {
  let first = 0;
  let spans = [];

  function show(start) {
    first = start;
    const stop = Math.min(page.key_len, start + STRETCH);
    spans = [];
    for (let at = start; at < stop; at++) {
      const token = element("span", "", inText(page.key_tokens[at]));
      token.dataset.at = at;
      spans.push(token);
    }
    holder.replaceChildren(...spans);
    const all = page.key_len <= STRETCH;
    about.textContent = all
      ? page.key_len.toLocaleString("en") + " tokens"
      : "tokens " + start.toLocaleString("en") + " to " + (stop - 1).toLocaleString("en") + " of " + page.key_len.toLocaleString("en");
  }

  holder.addEventListener("click", (event) => {
    const at = event.target.dataset && event.target.dataset.at;
    if (at === undefined) return;
    const query = Number(at) - (page.key_len - page.query_len);
    if (query >= 0) keep(Math.floor(((query + 0.5) * page.rows) / page.query_len));
  });

  function colour(data, row, scale, dark) {
    if (!page.key_tokens) return;
    const shift = page.key_len - page.query_len;
    const [from, to] = span(row, page.rows, page.query_len).map((query) => query + shift);
    if (page.key_len > STRETCH && (spans.length === 0 || from < first || to > first + spans.length)) {
      show(Math.max(0, Math.min(page.key_len - STRETCH, from - Math.floor(STRETCH * 0.7))));
    } else if (spans.length === 0) show(0);
    const highest = data.topShares[row * page.top] / 65535;
    const low = scale === "log" ? highest / 100 : 0;
    legend.low.textContent = low === 0 ? "0" : "\u2264 " + low.toPrecision(2);
    legend.high.textContent = highest.toPrecision(2);
    const range = { logFloor: 0.01, highest: 1 };
    spans.forEach((token, place) => {
      const at = first + place;
      const col = Math.min(page.cols - 1, Math.floor(((at + 1) * page.cols - 1) / page.key_len));
      const code = data.codes[row * page.cols + col];
      token.className = (at >= from && at < to ? "query" : "") + (code === FORBIDDEN ? " later" : "");
      const share = code === FORBIDDEN || highest === 0 ? 0 : shareOf(weightOf(code, page.floor) / highest, scale, range);
      // Half the ramp: the text stays readable, and its colours cannot be taken for the map's.
      token.style.backgroundColor = share < 0.02 ? "" : "rgb(" + rampColour(ramp, TEXT_RAMP * share, dark).join(",") + ")";
    });
  }

  // Brings the query into view inside the panel, without moving the page.
  function follow() {
    const token = holder.querySelector(".query");
    if (!token) return;
    const top = token.offsetTop - holder.offsetTop;
    if (top < holder.scrollTop + 20 || top > holder.scrollTop + holder.clientHeight - 60) {
      holder.scrollTop = Math.max(0, top - holder.clientHeight * 0.6);
    }
  }

  function strongest(data, row, name) {
    topName.textContent = name;
    const items = [];
    for (let k = 0; k < page.top; k++) {
      const share = data.topShares[row * page.top + k] / 65535;
      if (share < 0.0005) break; // it would read as 0.000
      const [from, to] = span(data.topColumns[row * page.top + k], page.cols, page.key_len);
      const item = element("li");
      const where = to - from === 1 ? "at " + from.toLocaleString("en") : from.toLocaleString("en") + "\u2013" + (to - 1).toLocaleString("en");
      item.append(element("span", "share", share.toFixed(3)), element("span", "muted", where));
      if (page.key_tokens) item.append(tokenElement(page.key_tokens.slice(from, Math.min(to, from + EXCERPT)).join(""), to - from === 1 ? 40 : 60));
      items.push(item);
    }
    if (items.length === 0) items.push(element("li", "muted", "none"));
    topList.replaceChildren(...items);
  }

  return { colour, follow, strongest };
}
