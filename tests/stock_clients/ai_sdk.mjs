// A browser tab's worth of AI SDK chats, told over stdin what its user does: one JSON request a line, one JSON
// answer a line. The packages are used as they are; nothing here knows how the server works.
import { createInterface } from 'node:readline';
import { Chat } from '@ai-sdk/react';
import * as ai7 from 'ai';
import * as ai6 from 'ai6';
import * as ai5 from 'ai5';

const packages = { 5: ai5, 6: ai6, 7: ai7 };
const { readUIMessageStream } = ai7;

// What a framework's binding gives older versions: a place for the chat's state.
class State {
  #status = 'ready';
  statuses = [];
  constructor(messages = []) {
    this.messages = messages;
    this.error = undefined;
  }
  get status() {
    return this.#status;
  }
  set status(status) {
    this.#status = status;
    this.statuses.push(status);
  }
  pushMessage = message => void (this.messages = [...this.messages, message]);
  popMessage = () => void (this.messages = this.messages.slice(0, -1));
  replaceMessage = (index, message) =>
    void (this.messages = [...this.messages.slice(0, index), message, ...this.messages.slice(index + 1)]);
  snapshot = value => structuredClone(value);
}

function chatOf(version, { messages, ...init }) {
  if (version === 7) return new Chat({ messages, ...init });
  class OlderChat extends packages[version].AbstractChat {}
  const state = new State(messages);
  return Object.assign(new OlderChat({ ...init, state }), { statuses: state.statuses });
}

const chats = new Map();

// A click that the page counts twice: every post goes out twice at once, and the page reads the second answer.
const twice = async (url, init) => {
  const [first, second] = await Promise.all([fetch(url, init), fetch(url, init)]);
  first.body?.pipeTo(new WritableStream()).catch(() => {});
  return second;
};

function open({ as, id, url, body, messages, version = 7, address = '/v1/ai-sdk/chat', doubled }) {
  const {
    DefaultChatTransport,
    lastAssistantMessageIsCompleteWithApprovalResponses = () => false,
    lastAssistantMessageIsCompleteWithToolCalls,
  } = packages[version];
  const tab = { finishes: [], calls: [], statuses: [] };
  const transport = new DefaultChatTransport({ api: `${url}${address}`, body, ...(doubled && { fetch: twice }) });
  tab.chat = chatOf(version, {
    id,
    transport,
    messages,
    sendAutomaticallyWhen: options =>
      lastAssistantMessageIsCompleteWithApprovalResponses(options) ||
      lastAssistantMessageIsCompleteWithToolCalls(options),
    onToolCall: ({ toolCall }) => void tab.calls.push(toolCall.toolName),
    onFinish: ({ message, messages, ...rest }) => void tab.finishes.push(rest),
    onError: () => {},
  });
  if (tab.chat.statuses) tab.statuses = tab.chat.statuses;
  tab.chat['~registerStatusCallback']?.(() => tab.statuses.push(tab.chat.status));
  tab.transport = transport;
  chats.set(as, tab);
}

const pending = message =>
  message.parts.filter(part => part.state === 'approval-requested').map(part => part.approval.id);

const actions = {
  open,
  // What takes as long as the run is not waited for: `state` tells how it goes.
  send: ({ as, text, messageId, files }) => void chats.get(as).chat.sendMessage({ text, messageId, files }),
  regenerate: ({ as }) => void chats.get(as).chat.regenerate(),
  resume: ({ as }) => void chats.get(as).chat.resumeStream(),
  stop: ({ as }) => chats.get(as).chat.stop(),
  decide: async ({ as, approved, reason }) => {
    const { chat } = chats.get(as);
    for (const id of pending(chat.lastMessage)) {
      await chat.addToolApprovalResponse({ id, approved, reason });
    }
  },
  answer: async ({ as, tool, output }) => {
    const { chat } = chats.get(as);
    const part = chat.lastMessage.parts.findLast(part => part.type === `tool-${tool}`);
    await chat.addToolOutput({ tool, toolCallId: part.toolCallId, output });
  },
  state: ({ as }) => {
    const { chat, finishes, calls, statuses } = chats.get(as);
    return { status: chat.status, error: chat.error?.message, messages: chat.messages, finishes, calls, statuses };
  },
  // Without a chat: the stream that is there for the taking, read to its end.
  read: async ({ id, url }) => {
    const transport = new ai7.DefaultChatTransport({ api: `${url}/v1/ai-sdk/chat` });
    const stream = await transport.reconnectToStream({ chatId: id });
    if (stream === null) return null;
    let last;
    for await (const message of readUIMessageStream({ stream })) last = message;
    return last;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...request } = JSON.parse(line);
  const reply = await Promise.resolve(actions[name](request)).then(
    value => ({ value: value ?? null }),
    error => ({ failed: String(error?.stack ?? error) }),
  );
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
process.exit(0);
