// Calls the server's API and reads its streams of events. All addresses are relative to the page's own.

/** @import { ErrorDetail } from "../wire.d.ts" */

/**
 * An event of a stream.
 * @typedef {{ name: string, id: number | null, data: any }} ServerEvent  data: JSON, of the type that the name says
 */

const BASE = new URL("api/v1/", document.baseURI);
const KEY = "api-key";
const OF_CONVERSATION = /^chat\/conversation\/(conv_[0-9a-f]+)/;

/** Tells the page that the server did not accept the key that the page has now (`refused`), or did not answer. */
export const access = new EventTarget();

/** An error of a request. `status` is 0 if the server did not answer. */
export class ApiError extends Error {
  /** @param {number} status @param {ErrorDetail} detail */
  constructor(status, detail) {
    super(detail.message);
    this.status = status;
    this.code = detail.code;
    this.hint = detail.hint ?? "";
  }
}

/** @returns {boolean} */
export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Keeps the key until the tab is closed; null forgets it. @param {string | null} key */
export function setKey(key) {
  if (key === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/**
 * Sends a request and returns the reply's JSON; null for a reply without a body.
 * @param {string} method @param {string} path below /api/v1 @param {object} [body]
 * @param {AbortSignal} [signal] @param {string} [session] the conversation, if the path does not name it
 * @returns {Promise<any>} JSON, of the type that the route says
 */
export async function call(method, path, body, signal, session) {
  const response = await send(method, path, body, signal, session);
  return response.status === 204 ? null : await response.json();
}

/**
 * Sends a request and yields the events of its reply.
 * @param {string} method @param {string} path @param {object} [body] @param {AbortSignal} [signal]
 * @param {string} [session] the conversation, if the path does not name it
 * @returns {AsyncGenerator<ServerEvent, void, void>}
 */
export async function* stream(method, path, body, signal, session) {
  const response = await send(method, path, body, signal, session);
  if (response.body === null || response.status === 204) return;
  let pending = "";
  try {
    for await (const text of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
      const frames = (pending + text).split("\n\n");
      pending = frames.pop() ?? "";
      for (const frame of frames) {
        const event = parse(frame);
        if (event !== null) yield event;
      }
    }
  } catch (error) {
    throw signal?.aborted ? error : unreachable();
  }
}

/** Returns the id that the server is to give a new conversation. @returns {string} */
export function newConversationId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `conv_${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** @param {ReadableStream<string>} readable @returns {AsyncGenerator<string, void, void>} */
async function* chunks(readable) {
  const reader = readable.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
  } finally {
    reader.cancel().catch(() => {}); // the connection may be broken already
  }
}

/** @param {string} frame the lines of one event @returns {ServerEvent | null} */
function parse(frame) {
  let name = "message";
  let id = null;
  const data = [];
  for (const line of frame.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("id: ")) id = Number(line.slice(4));
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  return data.length > 0 ? { name, id, data: JSON.parse(data.join("\n")) } : null;
}

/**
 * Sends a request with the id of its conversation in a header, for load balancers in front of several servers.
 * @param {string} method @param {string} path @param {object} [body] @param {AbortSignal} [signal] @param {string} [session]
 * @returns {Promise<Response>}
 */
async function send(method, path, body, signal, session = OF_CONVERSATION.exec(path)?.[1]) {
  /** @type {Record<string, string>} */
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key !== null) headers["Authorization"] = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (session !== undefined) headers["X-Session-Id"] = session;
  const init = { method, headers, body: body && JSON.stringify(body), signal, cache: /** @type {const} */ ("no-store") };
  let response;
  try {
    response = await fetch(new URL(path, BASE), init);
  } catch (error) {
    throw signal?.aborted ? error : unreachable();
  }
  if (response.ok) return response;
  const error = await refusal(response);
  if (error.status === 401 && key === sessionStorage.getItem(KEY)) access.dispatchEvent(new Event("refused"));
  throw error;
}

function unreachable() {
  access.dispatchEvent(new Event("unreachable"));
  return new ApiError(0, { code: "unreachable", message: "The server does not answer." });
}

/** @param {Response} response @returns {Promise<ApiError>} */
async function refusal(response) {
  const body = await response.json().catch(() => null); // a proxy's error page is not JSON
  const detail = body?.error ?? { code: "unknown", message: `The server answered with status ${response.status}.` };
  return new ApiError(response.status, detail);
}
