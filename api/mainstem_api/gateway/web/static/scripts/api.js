// The gateway's HTTP interface as these pages use it: requests, problem documents, the token.

const TOKEN = "mainstem.token";

/** The gateway refused: its problem document's code and words. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The gateway answered ${status}.`);
    this.status = status;
    this.code = document.code ?? "unknown";
    this.document = document;
  }
}

/** No gateway answered. */
export class Unreachable extends Error {}

/** Return the address of a path of the interface, wherever the gateway is mounted. */
export const address = (path) => new URL(path, document.baseURI);

export function token() {
  try { return sessionStorage.getItem(TOKEN) ?? localStorage.getItem(TOKEN); } catch { return null; }
}

/** Keep a token for this tab, or for this browser; null forgets it. */
export function setToken(value, { remember = false } = {}) {
  try {
    sessionStorage.removeItem(TOKEN);
    localStorage.removeItem(TOKEN);
    if (value) (remember ? localStorage : sessionStorage).setItem(TOKEN, value);
  } catch { /* storage is forbidden: nothing to keep it in */ }
  window.dispatchEvent(new Event("mainstem:token"));
}

/** Take a token from the address (`#token=…`), and out of it: addresses are shared and remembered. */
export function takeToken() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const given = fragment.get("token");
  if (given === null) return;
  fragment.delete("token");
  const rest = fragment.toString();
  history.replaceState(null, "", rest ? `#${rest}` : location.pathname + location.search);
  setToken(given);
}

export function authorization() {
  const held = token();
  return held ? { Authorization: `Bearer ${held}` } : {};
}

/** Tell the page that a token is wanted (`identity.js` asks for it). */
export function unauthorized() {
  window.dispatchEvent(new Event("mainstem:unauthorized"));
}

/** Send a request; return the answer's JSON, or null where there is none. Throws Problem, Unreachable. */
export async function request(method, path, { body, headers = {}, signal, query = {} } = {}) {
  const url = address(path);
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== null) url.searchParams.set(name, value);
  let response;
  try {
    response = await fetch(url, {
      method,
      signal,
      cache: "no-store",
      headers: { Accept: "application/json", ...authorization(), ...(body ? { "Content-Type": "application/json" } : {}), ...headers },
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("The gateway cannot be reached.");
  }
  if (!response.ok) throw await problem(response);
  return response.status === 204 ? null : response.json();
}

export async function problem(response) {
  if (response.status === 401) unauthorized();
  let document = {};
  try { document = await response.json(); } catch { /* a proxy's page */ }
  return new Problem(response.status, document);
}

const segment = encodeURIComponent;

export const me = () => request("GET", "v1/me");
export const overview = (query) => request("GET", "v1/overview", { query });
export const trends = (query) => request("GET", "v1/overview/trends", { query });
export const abortFound = (query) => request("POST", "v1/overview/abort", { query });
export const rerunFound = (query, key) => request("POST", "v1/overview/rerun", { query, headers: { "Idempotency-Key": key } });
export const getRun = (runId) => request("GET", `v1/runs/${segment(runId)}`);
export const getInput = (runId) => request("GET", `v1/runs/${segment(runId)}/input`);
export const messages = (threadId, query) => request("GET", `v1/threads/${segment(threadId)}/messages`, { query });
export const hasBegun = async (threadId) => (await request("GET", `v1/threads/${segment(threadId)}/runs`, { query: { limit: 1 } })).runs.length > 0;
export const threads = (query) => request("GET", "v1/threads", { query });
export const describeThread = (threadId, body) => request("PATCH", `v1/threads/${segment(threadId)}`, { body });
export const deleteThread = (threadId) => request("DELETE", `v1/threads/${segment(threadId)}`);
export const abort = (runId) => request("POST", `v1/runs/${segment(runId)}/abort`, { query: { wait: 5 } });
export const callbacks = () => request("GET", "v1/callbacks");
export const fork = (threadId, body) => request("POST", `v1/threads/${segment(threadId)}/fork`, { body, headers: { "Idempotency-Key": newId() } });
export const resend = (runId) => request("POST", `v1/runs/${segment(runId)}/callbacks/resend`);
export const resume = (runId, body) => request("POST", `v1/runs/${segment(runId)}/resume`, { body });

/** Return an id that makes repeating a request harmless. */
export const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Repeat what is harmless to repeat while no gateway answers. */
async function patiently(send) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await send();
    } catch (error) {
      const passing = error instanceof Unreachable || [502, 503, 504].includes(error.status);
      if (!passing || attempt === 4) throw error;
      await new Promise((resolve) => setTimeout(resolve, 400 * attempt));
    }
  }
}

/** Say something to a run that is at work. */
export function steer(runId, text) {
  const body = { text, input_id: newId() };
  return patiently(() => request("POST", `v1/runs/${segment(runId)}/input`, { body }));
}

/** Start a run on a thread. */
export function start(threadId, body) {
  const headers = { "Idempotency-Key": newId() };
  return patiently(() => request("POST", `v1/threads/${segment(threadId)}/runs`, { body, headers }));
}
