// Frameworks of npm as clients, unmodified: `node frameworks.mjs URL FRAMEWORK` does a scenario, prints JSON. Nothing
// here knows Mainstem. The engine `delegating` leaves one call, of `pick`, to its caller, and says what that answered.
import { createOpenAI } from '@ai-sdk/openai';
import { Client } from '@langchain/langgraph-sdk';
import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, setTracingDisabled, tool } from '@openai/agents';
import { generateText, jsonSchema, stepCountIs, streamText, tool as aiTool } from 'ai';
import OpenAI from 'openai';

const [url, framework] = process.argv.slice(2);
const QUESTION = 'Which colour?';
const schema = {
  type: 'object',
  properties: { of: { type: 'array', items: { type: 'string' } } },
  required: ['of'],
  additionalProperties: false,
};
const pick = async ({ of }) => of[1];

async function aiSdk() {
  const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: 'unused' });
  const tools = { pick: aiTool({ description: 'Pick.', inputSchema: jsonSchema(schema), execute: pick }) };
  const said = {};
  for (const [name, model] of [['responses', openai.responses], ['chat', openai.chat]]) {
    const about = { model: model('delegating'), prompt: QUESTION, tools, maxRetries: 0, stopWhen: stepCountIs(4) };
    said[name] = (await generateText(about)).text;
    const streamed = streamText(about);
    await streamed.consumeStream();
    said[`${name} streamed`] = await streamed.text;
    const turns = [['user', 'One'], ['assistant', 'First'], ['user', 'Two']];
    const messages = turns.map(([role, content]) => ({ role, content }));
    said[`${name} turns`] = (await generateText({ model: model('echo_history'), messages, maxRetries: 0 })).text;
  }
  return said;
}

async function agents() {
  setTracingDisabled(true);
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused', maxRetries: 0 });
  const picker = tool({ name: 'pick', description: 'Pick.', parameters: schema, strict: true, execute: pick });
  const said = {};
  for (const [name, Model] of [['responses', OpenAIResponsesModel], ['chat', OpenAIChatCompletionsModel]]) {
    const agent = new Agent({ name: 'a', model: new Model(client, 'delegating'), tools: [picker] });
    said[name] = (await new Runner().run(agent, QUESTION)).finalOutput;
    const streamed = await new Runner().run(agent, QUESTION, { stream: true });
    for await (const event of streamed) void event;
    await streamed.completed;
    said[`${name} streamed`] = streamed.finalOutput;
  }
  const talker = new Agent({ name: 'b', model: new OpenAIResponsesModel(client, 'echo_history') });
  const { id: conversationId } = await client.conversations.create({});
  for (const text of ['One', 'Two']) {
    said.conversation = (await new Runner().run(talker, text, { conversationId })).finalOutput;
  }
  return said;
}

async function langgraph() {
  const client = new Client({ apiUrl: `${url}/v1/langgraph`, apiKey: 'unused' });
  const says = content => ({ messages: [{ type: 'human', content }] });
  const { thread_id: thread } = await client.threads.create();
  const said = {};
  said.wait = (await client.runs.wait(thread, 'echo_history', { input: says('One') })).messages.at(-1).content;
  for await (const part of client.runs.stream(thread, 'echo_history', { input: says('Two'), streamMode: 'values' })) {
    if (part.event === 'values') said.values = part.data.messages.at(-1).content;
  }
  said.state = (await client.threads.getState(thread)).values.messages.map(message => message.type);
  const { thread_id: other } = await client.threads.create();
  let text = '', run, last;
  const input = { tokens: 60, interval_ms: 20 };
  for await (const part of client.runs.stream(other, 'demo', { input, streamMode: 'messages-tuple', streamResumable: true })) {
    if (part.event === 'metadata') run = part.data.run_id;
    if (part.event !== 'messages') continue;
    [text, last] = [text + part.data[0].content, part.id];
    if (text.length > 30) break;
  }
  for await (const part of client.runs.joinStream(other, run, { lastEventId: last, streamMode: ['messages-tuple'] })) {
    if (part.event === 'messages') text += part.data[0].content;
  }
  said.joined = text;
  const asking = await client.runs.wait(other, 'demo', { input: { tokens: 4, interval_ms: 0, approve_at: [2] } });
  said.interrupt = asking.__interrupt__[0].value.kind;
  said.status = (await client.threads.get(other)).status;
  const resumed = await client.runs.wait(other, 'demo', { command: { resume: true } });
  said.resumed = resumed.messages.at(-2).content;
  const long = await client.runs.create(other, 'demo', { input: { tokens: 100000, interval_ms: 5 } });
  await client.runs.cancel(other, long.run_id, true);
  said.cancelled = (await client.runs.get(other, long.run_id)).status;
  return said;
}

const scenarios = { '@ai-sdk/openai': aiSdk, '@openai/agents': agents, '@langchain/langgraph-sdk': langgraph };
process.stdout.write(`${JSON.stringify(await scenarios[framework]())}\n`);
process.exit(0);
