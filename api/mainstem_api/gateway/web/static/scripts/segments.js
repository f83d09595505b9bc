// Cuts a growing Markdown text into segments that are parsed one by one. Where a segment ends depends only on the text
// before the cut and one character after it, so a streamed text and a reloaded one are cut alike, and what was cut off
// never changes again.

const ENOUGH = 3_072; // a segment ends at the first safe place after so many characters
const MOST = 8_192; // and wherever it is after so many: parsers take time that grows with the square of this
const CODE = 65_536; // characters of a segment that begins with a code block: there is nothing to parse in it
const FENCE = /^ {0,3}(`{3,}|~{3,})([^\n]{0,200})/;
const DELIMITER = /^ {0,3}\|?[ :]*-[-| :]*$/; // the line between a table's header and its rows
const LINE = 256; // characters of a line that are looked at
const CONTINUES = /[\s>*+\-\d]/; // a line that begins so may belong to a list or a quotation before it

/** Cut one text. `next()` returns the next segment: `{ source, prefix, end, open }`. */
export class Segments {
  /** Begin at the start of a text, or after a closed segment of it. */
  constructor(before = null) {
    this.start = before?.end ?? 0;
    this.block = before?.block ?? null; // what the segment before left open
  }

  /** Return the segment that begins where the last closed one ended; an open one may still grow, and is returned again. */
  next(text) {
    const { end, closed, block } = boundary(text, this.start, this.block);
    const segment = { source: text.slice(this.start, end), prefix: this.block?.lines ?? "", start: this.start, end, block, open: !closed };
    if (closed) {
      this.start = end;
      this.block = block;
    }
    return segment;
  }
}

/** Return where the segment that begins at `start` ends: at a blank line between blocks, or at the largest size. */
function boundary(text, start, given) {
  const isCode = given?.marks || opens(text.slice(start, start + LINE).split("\n", 1)[0]);
  let most = isCode ? CODE : MOST;
  const piece = text.slice(start, start + most + 1); // no search goes further, however long a line is
  let block = given;
  let [line, opened] = [0, 0];
  let previous = "";
  for (;;) {
    const newline = piece.indexOf("\n", line);
    if (newline === -1 || newline >= most) break;
    const words = piece.slice(line, Math.min(newline, line + LINE));
    const before = block;
    block = after(words, previous, block);
    previous = words;
    if (block?.marks && !before?.marks) opened = /^[`~]/.test(words) ? line : 0;
    line = newline + 1;
    if (!block?.marks && line < MOST) most = MOST;
    else if (!block?.marks && most === CODE) return { end: start + line, closed: true, block };
    if (block || line < ENOUGH || words.trim() || line === piece.length) continue;
    if (!CONTINUES.test(piece[line])) return { end: start + line, closed: true, block };
  }
  if (piece.length <= most) return { end: start + piece.length, closed: false, block };
  if (block?.marks && opened) return { end: start + opened, closed: true, block: null }; // code begins a segment of its own
  return { end: start + (line || within(piece, most)), closed: true, block };
}

const opens = (line) => Boolean(after(line, "", null)?.marks);

/** Return the block that a line leaves open: a fenced code block or a table, whose rest needs its first lines to be one. */
function after(line, previous, block) {
  if (!block?.marks && line.includes("|")) {
    if (block) return block;
    const isTable = DELIMITER.test(line) && previous.includes("|") && line.length < LINE && previous.length < LINE;
    if (isTable) return { lines: `${previous}\n${line}\n` };
  }
  const found = FENCE.exec(line);
  if (!found) return block?.marks ? block : null;
  const [, marks, info] = found;
  if (!block?.marks) return marks[0] === "`" && info.includes("`") ? null : { marks, lines: `${marks}${info.trim()}\n` };
  const closes = marks[0] === block.marks[0] && marks.length >= block.marks.length && !info.trim();
  return closes ? null : block;
}

/** Return a place inside one long line: after its last space, and never between the halves of a character. */
function within(piece, most) {
  const space = piece.lastIndexOf(" ", most - 1);
  if (space > most / 2) return space + 1;
  const code = piece.charCodeAt(most - 1);
  return code >= 0xd800 && code < 0xdc00 ? most - 1 : most;
}
