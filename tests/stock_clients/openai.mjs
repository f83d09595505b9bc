// The OpenAI client, told over stdin what its program does: one JSON request a line, one JSON answer a line. The
// package is used as it is; nothing here knows how the server works.
import { createInterface } from 'node:readline';
import OpenAI, { toFile } from 'openai';

const streams = new Map();
const client = (url, maxRetries = 0) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused', maxRetries });

// What takes as long as the run is not waited for: `state` tells how it goes.
async function read(as, stream) {
  const seen = { events: [], failure: null, done: false };
  streams.set(as, seen);
  try {
    for await (const event of await stream) seen.events.push(event);
  } catch (error) {
    seen.failure = `${error.status ?? ''} ${error.code ?? ''} ${error}`;
  }
  seen.done = true;
}

const actions = {
  create: ({ url, body, retries }) => client(url, retries).responses.create(body),
  complete: ({ url, body, retries }) => client(url, retries).chat.completions.create(body),
  createStream: ({ as, url, body }) => void read(as, client(url).responses.create({ ...body, stream: true })),
  completeStream: ({ as, url, body }) => void read(as, client(url).chat.completions.create({ ...body, stream: true })),
  retrieve: ({ url, id }) => client(url).responses.retrieve(id),
  retrieveStream: ({ as, url, id, query }) =>
    void read(as, client(url).responses.retrieve(id, { ...query, stream: true })),
  helper: ({ url, body }) => client(url).responses.stream(body).finalResponse(),
  cancel: ({ url, id }) => client(url).responses.cancel(id),
  upload: async ({ url, name, text }) =>
    client(url).files.create({ file: await toFile(Buffer.from(text), name), purpose: 'user_data' }),
  files: async ({ url }) => {
    const ids = [];
    for await (const file of client(url).files.list()) ids.push(file.id);
    return ids;
  },
  content: async ({ url, id }) => (await client(url).files.content(id)).text(),
  discard: ({ url, id }) => client(url).files.delete(id),
  state: ({ as }) => streams.get(as),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...request } = JSON.parse(line);
  const reply = await Promise.resolve()
    .then(() => actions[name](request))
    .then(
      value => ({ value: value ?? null }),
      error => ({ value: { refused: { status: error.status, code: error.code, message: String(error) } } }),
    );
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
process.exit(0);
