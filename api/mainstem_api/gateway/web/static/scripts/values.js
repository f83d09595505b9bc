// Values that engines and models chose, as text of bounded size: arguments and results of tools, names, titles.

const LONGEST = 20_000; // characters of one value; its reader scrolls in a box of 260 pixels
const DEEPEST = 100;

/** The text is as long as it may be. */
class Full extends Error {}

/** Return the beginning of a text, and how much more there is. Whatever is no text counts as none. */
export function clip(text, longest = LONGEST) {
  if (typeof text !== "string") return "";
  if (text.length <= longest) return text;
  const last = text.charCodeAt(longest - 1);
  const end = last >= 0xd800 && last < 0xdc00 ? longest - 1 : longest; // both halves of a character, or none
  return `${text.slice(0, end)}… (${(text.length - end).toLocaleString("en")} more characters)`;
}

/** Return a name or a title for one line. */
export const line = (text, longest = 200) => (typeof text === "string" && text.length > longest ? `${text.slice(0, longest - 1)}…` : text ?? "");

/** Return the first of some values that is a text, and not an empty one. */
export const firstText = (...values) => values.find((value) => typeof value === "string" && value !== "") ?? "";

/** Whether a text has a word so long that laying it out with kerning and ligatures takes seconds. */
export const isDense = (text) => /\S{256}/.test(text);

/** Return a value as indented JSON, a text as it stands; cut off where that gets long. */
export function pretty(value) {
  if (typeof value === "string") return clip(value);
  const { text, cut } = printed(value, LONGEST, "  ");
  return cut ? `${text}\n… (cut off here)` : text;
}

/** Whether `pretty` shows all of a value. */
export const isWhole = (value) => (typeof value === "string" ? value.length <= LONGEST : !printed(value, LONGEST, "  ").cut);

/** Return a tool's arguments in one line. */
export function brief(value, longest = 80) {
  if (value === null || typeof value !== "object") return line(value === null || value === undefined ? "" : String(value), longest);
  if (Array.isArray(value)) return line(printed(value, longest, "").text, longest);
  const words = [];
  let size = 0;
  for (const name in value) {
    const word = `${line(name, longest)}: ${printed(value[name], longest, "").text}`;
    words.push(word);
    if ((size += word.length + 2) > longest + 2) break;
  }
  return line(words.join(", "), longest);
}

function printed(value, longest, indent) {
  const printer = new Printer(longest, indent);
  try {
    printer.value(value, "\n", 0);
  } catch (error) {
    if (!(error instanceof Full)) throw error;
    return { text: printer.text, cut: true };
  }
  return { text: printer.text, cut: false };
}

/** JSON as `JSON.stringify` writes it, up to a size: it never looks at what does not fit. */
class Printer {
  constructor(longest, indent) {
    this.longest = longest;
    this.indent = indent;
    this.text = "";
  }

  write(piece) {
    this.text += piece.slice(0, this.longest - this.text.length);
    if (this.text.length >= this.longest) throw new Full();
  }

  value(value, newline, depth) {
    if (typeof value === "string") this.write(JSON.stringify(value.slice(0, this.longest)));
    else if (value === null || typeof value !== "object") this.write(String(value));
    else if (depth > DEEPEST) this.write("…");
    else this.members(value, newline, depth);
  }

  members(value, newline, depth) {
    const names = Array.isArray(value) ? null : Object.keys(value);
    const count = names?.length ?? value.length;
    const inner = this.indent ? newline + this.indent : "";
    this.write(names ? "{" : "[");
    for (let i = 0; i < count; i += 1) {
      this.write((i ? "," : "") + inner);
      if (names) this.write(`${JSON.stringify(names[i].slice(0, this.longest))}:${this.indent ? " " : ""}`);
      this.value(value[names ? names[i] : i], newline + this.indent, depth + 1);
    }
    this.write((count && this.indent ? newline : "") + (names ? "}" : "]"));
  }
}
