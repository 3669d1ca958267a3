// Exports the open conversation as a file, and imports one. The JSON is that of the terminal client's transcripts.

import { call } from "../core/api.js";
import { el } from "../core/dom.js";
import { sayError, toast } from "./toast.js";

/** @import { ConversationMessage, ConversationResponse, NewChatResponse } from "../wire.d.ts" */

const FORMAT = "llm-serving conversation";
const VERSION = 2;
const SPEAKERS = { user: "You", assistant: "Answer", tool: "Result of a tool", system: "Instructions" };

/** @param {ConversationResponse} conversation with its current branch */
export function exportMarkdown(conversation) {
  const parts = conversation.messages.map(({ role, model_name, content }) => `**${SPEAKERS[role]}**${model_name ? ` (${model_name})` : ""}\n\n${content}`);
  const text = `# ${titleOf(conversation)}\n\n${parts.join("\n\n---\n\n")}\n`;
  save(text, "text/markdown", `${fileName(titleOf(conversation))}.md`);
}

/** Saves all branches. @param {ConversationResponse} conversation */
export async function exportJson(conversation) {
  try {
    const path = `chat/conversation/${encodeURIComponent(conversation.conversation_id)}?tree=true`;
    /** @type {ConversationResponse} */
    const tree = await call("GET", path);
    const { title, system_prompt, model_name, head_id } = tree;
    const messages = tree.messages.map(({ id, parent_id, role, content, parts, timestamp, model_name, finish_reason, usage }) => ({
      id, parent_id, role, content, parts, timestamp, model_name, finish_reason, usage,
    }));
    const file = { format: FORMAT, version: VERSION, saved_at: new Date().toISOString(), title, system_prompt, model_name, head_id, messages };
    save(JSON.stringify(file, null, 2), "application/json", `${fileName(titleOf(tree))}.json`);
  } catch (error) {
    sayError(error);
  }
}

/** Starts a conversation from the current branch of a file. @param {File} file @returns {Promise<string | null>} its id */
export async function importJson(file) {
  try {
    const document = JSON.parse(await file.text());
    if (document.format !== FORMAT || !Array.isArray(document.messages)) throw new SyntaxError("another format");
    const messages = branchOf(document.messages, document.head_id ?? null)
      .filter(({ role }) => role === "user" || role === "assistant")
      .map(({ role, content, timestamp, model_name, finish_reason }) => ({ role, content, timestamp, model_name, finish_reason }));
    /** @type {NewChatResponse} */
    const started = await call("POST", "chat/new", { title: document.title, system_prompt: document.system_prompt ?? "", messages });
    return started.conversation_id;
  } catch (error) {
    if (error instanceof SyntaxError) toast(`${file.name} is not an exported conversation.`);
    else sayError(error);
    return null;
  }
}

/** @param {ConversationMessage[]} messages @param {string | null} head @returns {ConversationMessage[]} */
function branchOf(messages, head) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const branch = [];
  for (let message = byId.get(head ?? ""); message !== undefined; message = byId.get(message.parent_id ?? "")) {
    branch.push(message);
    byId.delete(message.id); // ends a circle in a damaged file
  }
  return branch.reverse();
}

/** @param {ConversationResponse} conversation */
function titleOf({ title, messages }) {
  return title ?? (messages[0]?.content.split("\n")[0]?.slice(0, 60) || "Conversation");
}

/** @param {string} title */
function fileName(title) {
  return title.replace(/[^\p{L}\p{N} ._-]+/gu, "").trim().slice(0, 60) || "conversation";
}

/** @param {string} text @param {string} type @param {string} name */
function save(text, type, name) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
