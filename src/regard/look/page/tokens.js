// Tokens as text: blanks told apart, and no character that could rearrange the line around it.

import { element } from "./dom.js";
import { min } from "./numbers.js";

const BLANKS = { " ": "\u00b7", "\n": "\u23ce", "\r": "\u240d", "\t": "\u2192" };
const ENDLESS = 4096; // no label looks further into a token than this

function safeCharacter(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  // Joiners and variation selectors hold an emoji or a script together; they move nothing.
  if (code === 0x200c || code === 0x200d) return character;
  if (/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u.test(character)) {
    return "<U+" + code.toString(16).toUpperCase().padStart(4, "0") + ">";
  }
  return character;
}

// One line of at most width characters, for labels and readouts. A blank inside a word's token stays a blank.
export function visible(token, width) {
  const start = token.slice(0, ENDLESS);
  const blank = start.trim() === "";
  let text = "";
  for (const character of start) {
    const next = character === " " && !blank ? " " : BLANKS[character] || safeCharacter(character);
    if (text.length + next.length > width) return text + "\u2026";
    text += next;
  }
  return token.length > ENDLESS ? text + "\u2026" : text;
}

// As it stands in the text: lines break where the token breaks them.
export function inText(token) {
  return Array.from(token, (character) => {
    if (character === "\n") return "\u23ce\n";
    return character === "\t" || character === " " ? character : safeCharacter(character);
  }).join("");
}

// A <bdi> keeps a right-to-left token from turning the sentence around it.
export const tokenElement = (token, width) => element("bdi", "token", visible(token, width));

// The first tokens of a stretch, where there are tokens.
export const excerpt = (tokens, [from, to], count, width) =>
  tokens ? tokenElement(tokens.slice(from, min(to, from + count)).join(""), width) : "";
