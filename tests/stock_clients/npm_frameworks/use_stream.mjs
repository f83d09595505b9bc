// LangGraph's React hook `useStream`, unmodified, on a page of jsdom: `node use_stream.mjs URL` does what a person does
// with a chat, and prints what the hook showed. A reload is a new root with the same session storage.
import { JSDOM } from 'jsdom';

const [url] = process.argv.slice(2);
const { window } = new JSDOM('<!doctype html><div id="root"></div>', { url: 'http://127.0.0.1/' });
Object.assign(globalThis, { window, document: window.document, sessionStorage: window.sessionStorage });
const { createElement } = await import('react');
const { createRoot } = await import('react-dom/client');
const { useStream } = await import('@langchain/langgraph-sdk/react');

let shown;
function Chat(options) {
  shown = useStream({ apiUrl: `${url}/v1/langgraph`, apiKey: 'unused', messagesKey: 'messages', ...options });
  return null;
}

function opened(options) {
  const root = createRoot(document.createElement('div'));
  const thread = { id: options.threadId ?? null };
  const draw = () => root.render(createElement(Chat, { ...options, threadId: thread.id, onThreadId }));
  function onThreadId(id) {
    thread.id = id;
    draw();
  }
  draw();
  return { thread, close: () => root.unmount() };
}

async function until(what, holds) {
  const deadline = Date.now() + 30_000;
  for (;;) {
    if (shown?.error) throw new Error(`${what}: ${shown.error}`);
    if (shown && holds(shown)) return;
    if (Date.now() > deadline) throw new Error(`${what}: ${JSON.stringify(shown?.messages)}`);
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}

const human = content => ({ type: 'human', content });
const texts = () => shown.messages.map(message => message.content);
const settled = count => ({ isLoading, messages }) => !isLoading && messages.length === count;

async function turns(options) {
  const page = opened({ assistantId: 'echo_history', ...options });
  await until('it opens', () => true);
  for (const [at, text] of ['One', 'Two'].entries()) {
    shown.submit({ messages: [human(text)] });
    await until(text, settled(2 * at + 2));
  }
  page.close();
  return texts();
}

async function edit() {
  const page = opened({ assistantId: 'echo_history', fetchStateHistory: true });
  await until('it opens', () => true);
  for (const [at, text] of ['One', 'Two'].entries()) {
    shown.submit({ messages: [human(text)] });
    await until(text, ({ history, ...now }) => settled(2 * at + 2)(now) && history.length === at + 1);
  }
  const { firstSeenState } = shown.getMessagesMetadata(shown.messages[2], 2);
  shown.submit({ messages: [human('2')] }, { checkpoint: firstSeenState.parent_checkpoint });
  await until('an edit', now => settled(4)(now) && texts()[2] === '2');
  page.close();
  return texts();
}

async function interrupted() {
  const page = opened({ assistantId: 'demo' });
  await until('it opens', () => true);
  shown.submit({ tokens: 4, interval_ms: 0, approve_at: [2] });
  await until('an interrupt', ({ interrupt, isLoading }) => interrupt && !isLoading);
  const { kind } = shown.interrupt.value;
  shown.submit(undefined, { command: { resume: true } });
  await until('the rest', ({ interrupt, isLoading, messages }) => !interrupt && !isLoading && messages.length);
  page.close();
  return [kind, texts().filter(text => text.includes('w3')).length];
}

async function reloaded() {
  const options = { assistantId: 'demo', reconnectOnMount: true };
  const page = opened(options);
  await until('it opens', () => true);
  shown.submit({ tokens: 60, interval_ms: 30 });
  await until('a beginning', ({ messages }) => String(messages.at(-1)?.content).includes('w3'));
  const { id } = page.thread;
  page.close();
  shown = undefined;
  const again = opened({ ...options, threadId: id });
  await until('the rest', ({ isLoading, messages }) => !isLoading && String(messages.at(-1)?.content).includes('w59'));
  again.close();
  return texts().at(-1);
}

const said = {
  turns: await turns({}),
  'turns that reconnect': await turns({ reconnectOnMount: true }),
  edit: await edit(),
  interrupt: await interrupted(),
  reload: await reloaded(),
};
process.stdout.write(`${JSON.stringify(said)}\n`);
process.exit(0);
