// The TypeScript client, told over stdin what to do: one JSON request a line, one JSON answer a line.
import { createInterface } from 'node:readline';
import { Mainstem, MainstemError, RunState } from '../../api/typescript/dist/index.js';

let client = null;
const followed = new Map();

function follow({ as, runId, after }) {
  const one = { cursors: [], types: [], connections: [], state: new RunState(), over: false, failure: null, controller: new AbortController() };
  followed.set(as, one);
  const options = { signal: one.controller.signal, onConnection: state => one.connections.push(state), ...(after ? { after } : {}) };
  (async () => {
    for await (const event of client.events(runId, options)) {
      one.cursors.push(event.cursor);
      one.types.push(event.type);
      one.state.apply(event);
    }
  })().then(
    () => (one.over = true),
    error => (one.failure = error instanceof MainstemError ? { status: error.status, code: error.code } : { name: error.name }),
  );
}

const actions = {
  open: ({ url, headers }) => void (client = new Mainstem({ baseUrl: url, headers: headers ?? {} })),
  call: async ({ method, given }) => {
    try {
      return { value: await client[method](...given) };
    } catch (error) {
      if (error instanceof MainstemError) return { error: { status: error.status, code: error.code, retryAfter: error.retryAfter } };
      throw error;
    }
  },
  follow,
  leave: ({ as }) => followed.get(as).controller.abort(),
  state: ({ as }) => {
    const { state, controller, ...rest } = followed.get(as);
    return { ...rest, ...state, text: state.text, isOver: state.isOver };
  },
};

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
