// What an engine's input is made of: a message, the conversation so far, and for the demo engine its switches.

import { el } from "./dom.js";
import { contentOf } from "./files.js";
import { line } from "./values.js";

/** How the engines of this deployment are spoken to, judged by the input schemas they announced. */
export class Engines {
  constructor(announced) {
    this.schemas = new Map(announced.map((engine) => [engine.name, engine.input_schema]));
    const preferred = announced.find((engine) => engine.is_default) ?? announced.find((engine) => engine.name === "openai");
    this.first = preferred?.name ?? (this.schemas.has("demo") ? "demo" : announced[0]?.name);
    this.names = [...this.schemas.keys()];
  }

  accepts(engine, field) {
    return field in (this.schemas.get(engine)?.properties ?? {});
  }

  takesFiles(engine) { return this.accepts(engine, "messages"); }

  /**
   * Return a run's input for a message. A message that is a JSON object, without files, is the input itself; others get the message, in
   * `messages` or as their text. What was said before is the server's to add (`history`, or the engine reads it itself).
   */
  input(engine, message, { switches, files = [] }) {
    if (files.length && !this.takesFiles(engine)) throw new Error(`The engine ${engine} takes no files.`);
    const given = files.length ? null : asObject(message);
    if (given) return given;
    const messages = [{ role: "user", content: contentOf(message, files) }];
    if (engine === "demo") {
      const input = demoInput(message, switches, this.accepts("demo", "echo_input"));
      return this.accepts("demo", "message") ? { ...input, message } : input;
    }
    if (this.accepts(engine, "history")) return { messages, history: true };
    if (this.accepts(engine, "messages")) return { messages };
    const field = ["text", "prompt", "message", "query", "input", "question"].find((name) => this.accepts(engine, name));
    return { [field ?? "text"]: message };
  }

  /** Return an input in which the user says something else: the last text of theirs, wherever the engine takes it. */
  edited(engine, input, text) {
    if (engine === "demo" || asObject(text)) return this.input(engine, text, { switches: new Set() });
    if (Array.isArray(input.messages)) {
      const at = input.messages.findLastIndex(({ role }) => role === "user");
      const last = input.messages[at] ?? { role: "user", content: "" };
      const others = Array.isArray(last.content) ? last.content.filter(({ type }) => type !== "text") : [];
      const content = others.length ? [{ type: "text", text }, ...others] : text;
      return { ...input, messages: [...input.messages.slice(0, Math.max(at, 0)), { ...last, content }] };
    }
    const field = TEXTS.find((name) => typeof input[name] === "string");
    return field ? { ...input, [field]: text } : this.input(engine, text, { switches: new Set() });
  }
}

/** Return what lists of runs show of a message. */
export const promptOf = (text, files) => line(text || files.map(({ name }) => name).join(", "));

const TEXTS = ["message", "text", "prompt", "question", "query"]; // as the server reads what was said

function asObject(message) {
  if (!message.trim().startsWith("{")) return null;
  try {
    const parsed = JSON.parse(message);
    return parsed && typeof parsed === "object" && !Array.isArray(parsed) ? parsed : null;
  } catch {
    return null;
  }
}

// -- the demo engine

/** What the demo engine can be asked to do, each a switch beside the message field. */
export const SWITCHES = [
  { name: "approval", label: "Approval", title: "Pause for your approval of a tool call" },
  { name: "question", label: "Question", title: "Pause to ask you something" },
  { name: "failure", label: "Failure", title: "Fail before the end" },
  { name: "slow", label: "Slow", title: "Stream slowly, to have time to reload or disconnect" },
];

/** Ready-made first messages: one for each thing worth seeing. */
export const SUGGESTIONS = [
  { icon: "stream", title: "Watch it stream", hint: "Then reload the page half-way", message: "What makes a run durable?", switches: [] },
  { icon: "shield", title: "Approve a tool call", hint: "The worker is free while you think", message: "Look something up for me", switches: ["approval"] },
  { icon: "ask", title: "Answer a question", hint: "The run waits as long as it takes", message: "Write a note, but ask me first", switches: ["question"] },
  { icon: "warn", title: "See it fail", hint: "What was written stays", message: "Try something risky", switches: ["failure"] },
];

export const CHAT_SUGGESTIONS = [
  { icon: "stream", title: "Explain something", hint: "With a table and an example", message: "Explain optimistic and pessimistic locking: one example of each, and a table of trade-offs.", switches: [] },
  { icon: "tool", title: "Write some code", hint: "And reload half-way", message: "Write a Python function that merges overlapping intervals, with tests.", switches: [] },
];

const words = (text) => text.match(/\s*\S+(?:\s+$)?|\s+$/g) ?? [];

function demoInput(message, switches, hears) {
  const text = TALES.find(({ about }) => about.test(message))?.text ?? echo(message);
  const at = (share) => pauseAt(words(text), share);
  const input = { text, interval_ms: switches.has("slow") ? 200 : 32 };
  if (switches.has("approval")) input.approve_at = [at(0.4)];
  if (switches.has("question")) input.ask_at = [at(0.5)];
  if (switches.has("failure")) input.fail_at = at(0.7);
  if (hears) input.echo_input = true;
  return input;
}

/** Return the number of the word that begins a sentence and is nearest to a share of the text; else, of any word there. */
function pauseAt(all, share) {
  const wanted = Math.max(1, Math.floor(all.length * share));
  const begins = all.map((_, k) => k).filter((k) => k > 0 && /[.!?;:]\*{0,2}$/.test(all[k - 1].trim()));
  const best = begins.sort((one, other) => Math.abs(one - wanted) - Math.abs(other - wanted))[0];
  return best !== undefined && Math.abs(best - wanted) < all.length / 4 ? best : wanted;
}

const echo = (message) => `> ${message.split("\n").join("\n> ")}

There is no model behind the **demo** engine: it repeats what you wrote, word by word, as a model would stream it. The rest is real. This text is written by a Celery worker into a log, and your browser reads that log; reload the page, close it, or stop the gateway, and you lose nothing.

Use the switches below the message field to have it ask for approval, ask you a question, or fail. While it streams you can say something to it, or stop it with \`Esc\`.`;

const TALES = [
  {
    about: /^What makes a run durable\?$/,
    text: `A run is **a record, a log and an owner**, and none of them is your browser.

1. Starting it writes the record. When the gateway answers, the run is stored.
2. A Celery worker claims it and writes every token into the log, a Valkey stream.
3. Readers follow the log. Each event has an id, its *cursor*; whoever comes back says the last one they have seen.

\`\`\`http
GET /v1/runs/q3v…/events HTTP/1.1
Last-Event-ID: 2-17
\`\`\`

So replay and live are the same read, and there is no seam between them in which a token could get lost.

| what happens | what you see |
|---|---|
| you reload the page | the same text, going on |
| the gateway restarts | *reconnecting*, then the same text, going on |
| the worker dies | its partial text, settled within 30 seconds |
| you press stop | an exact prefix of the whole |

Try the first one now: **reload this page**.`,
  },
  {
    about: /^Look something up for me$/,
    text: `I can do that with a tool, but the tool is not allowed to run before you agree. In a moment this run will *pause*: its state is saved, its Celery task ends, and no worker is held while you think. Approve the call and it goes on right here, on whichever worker is free; edit its arguments, answer in its place, or reject it, and you will see what became of your decision.`,
  },
  {
    about: /^Write a note, but ask me first$/,
    text: `Before I can write that note I need something from you, so this run will stop for a moment and ask. Your answer goes into the text, right here, and then the note continues to its end. You can close this tab before you answer: the question waits in the list at the left, and in any other browser.`,
  },
  {
    about: /^Try something risky$/,
    text: `This will go wrong on purpose. When an engine raises an error, the run ends as failed with a reason, and everything it has written until then stays where it is: nothing is rolled back, nothing is shown twice, and you can simply try again from the button below this text once it appears. You will never read these last words.`,
  },
];

/** Fill a container with the switches; returns those that are on. */
export function switchButtons(container) {
  const on = new Set();
  const buttons = SWITCHES.map(({ name, label, title }) => {
    const button = el("button", { type: "button", class: "switch", title, "aria-pressed": "false", data: { switch: name } }, label);
    button.addEventListener("click", () => {
      if (!on.delete(name)) on.add(name);
      button.setAttribute("aria-pressed", String(on.has(name)));
    });
    return button;
  });
  container.replaceChildren(...buttons);
  return { on };
}
