// A thread's messages as exchanges: what users said, and the answer to it, as `GET /v1/threads/{id}/messages` has them.

/** Return exchanges, oldest first: `{ id, said, answer }`; what nobody answered (yet) has no answer. */
export function exchanges(messages) {
  const found = [];
  let said = [];
  for (const message of messages) {
    if (message.role === "assistant" && message.id === message.run_id) {
      found.push({ id: message.run_id, said, answer: message });
      said = [];
    } else said.push(message); // answers that a client sent along are shown as they stand
  }
  if (said.length) found.push({ id: said.at(-1).id, said, answer: null });
  return found;
}

/** Return the run that an answer is, as far as a message tells: content, and what users said and decided meanwhile. */
export function runOf(answer) {
  const content = [];
  const inputs = [];
  const unread = [];
  const decisions = [];
  for (const part of answer.parts) {
    if (part.type === "decision") decisions.push(...(part.decisions ?? []));
    else if (part.type !== "input") content.push(part);
    else if (part.state === "unread") unread.push(part);
    else if (part.state === "read") inputs.push({ ...part, part: content.length });
  }
  return {
    run_id: answer.run_id, status: answer.status, reason: answer.reason, error: answer.error, usage: answer.usage,
    title: answer.title, action: answer.action, output: answer.output, finish_reason: answer.finish_reason,
    engine: answer.engine, started_at: answer.created_at, finished_at: answer.finished_at ?? null,
    content, inputs, unread, decisions,
  };
}

export const isOver = ({ status }) => ["succeeded", "failed", "aborted"].includes(status);

/** Return the text of a message. */
export const textOf = (message) => message.parts.filter(({ type }) => type === "text").map(({ text }) => text).join("");
