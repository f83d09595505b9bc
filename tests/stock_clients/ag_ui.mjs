// AG-UI agents, told over stdin what their user does: one JSON request a line, one JSON answer a line. The
// package is used as it is; nothing here knows how the server works.
import { createInterface } from 'node:readline';
import * as current from '@ag-ui/client';
import * as older from 'ag-ui-client-0';

const agents = new Map();
const single = globalThis.fetch;
const twice = async (url, init) => {
  const [first, second] = await Promise.all([single(url, init), single(url, init)]);
  first.body?.pipeTo(new WritableStream()).catch(() => {});
  return second;
};

function open({ as, url, threadId, messages, version = 1 }) {
  const { HttpAgent } = version === 1 ? current : older;
  const agent = new HttpAgent({ url: `${url}/v1/ag-ui`, threadId, initialMessages: messages });
  agents.set(as, { agent, events: [], failure: null, ends: 0 });
}

function run({ as, runId, resume, mainstem, tools }) {
  const tab = agents.get(as);
  Object.assign(tab, { events: [], failure: null, outcome: null });
  const forwardedProps = mainstem ? { mainstem } : undefined;
  const subscriber = {
    onEvent: ({ event }) => void tab.events.push(event),
    onRunFailed: ({ error }) => void (tab.failure = String(error)),
  };
  tab.agent.runAgent({ runId, resume, forwardedProps, tools }, subscriber).then(
    () => (tab.ends += 1),
    error => {
      tab.failure = String(error);
      tab.ends += 1;
    },
  );
}

const actions = {
  open,
  say: ({ as, id, text }) => void agents.get(as).agent.addMessage({ id, role: 'user', content: text }),
  answer: ({ as, ...message }) => void agents.get(as).agent.addMessage({ ...message, role: 'tool' }),
  // As a page does that regenerates, or edits: it goes on from the messages before.
  keep: ({ as, count }) => {
    const { agent } = agents.get(as);
    agent.setMessages(agent.messages.slice(0, count));
  },
  // A click that the page counts twice: every post goes out twice at once, and the page reads the second answer.
  double: ({ on }) => void (globalThis.fetch = on ? twice : single),
  // What takes as long as the run is not waited for: `state` tells how it goes.
  run,
  abort: ({ as }) => agents.get(as).agent.abortRun(),
  state: ({ as }) => {
    const { agent, events, failure, ends } = agents.get(as);
    const { messages, pendingInterrupts, isRunning } = agent;
    return { messages, pendingInterrupts, isRunning, events, failure, ends };
  },
};

// A connection that breaks reaches the client twice: the run's promise, and an error that nobody subscribed to.
process.on('uncaughtException', error => process.stderr.write(`uncaught: ${error}\n`));
console.warn = () => {}; // stdout is for answers
for (const name of ['log', 'info', 'debug', 'error']) console[name] = (...said) => process.stderr.write(`${said.join(' ')}\n`);

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...request } = JSON.parse(line);
  const reply = await Promise.resolve()
    .then(() => actions[name](request))
    .then(
      value => ({ value: value ?? null }),
      error => ({ failed: String(error?.stack ?? error) }),
    );
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
process.exit(0);
