// Tokens as text: blanks made visible, and no character that could rearrange the line around it.

const SHOWN = { " ": "\u00b7", "\n": "\u23ce", "\r": "\u240d", "\t": "\u2192" };

function safeCharacter(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  if (/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u.test(character)) {
    return "<U+" + code.toString(16).toUpperCase().padStart(4, "0") + ">";
  }
  return character;
}

// One line of at most width characters, for labels and readouts.
function visible(token, width) {
  let text = "";
  for (const character of token) {
    const next = SHOWN[character] || safeCharacter(character);
    if (text.length + next.length > width) return text + "\u2026";
    text += next;
  }
  return text;
}

// As it stands in the text: lines break where the token breaks them.
function inText(token) {
  return Array.from(token).map((c) => (c === "\n" ? "\u23ce\n" : c === "\t" || c === " " ? c : safeCharacter(c))).join("");
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function tokenElement(token, width) {
  return element("span", "token", visible(token, width));
}
