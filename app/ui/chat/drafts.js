// Keeps what was written and attached in each conversation but not sent, until the tab is closed.

/** @import { TextFile } from "./attachments.js" */

/** @typedef {{ words: string, files: TextFile[] }} Draft */

const STORED = "drafts";
const NEW = ""; // stands for a conversation that has not begun

/** @type {Map<string, Draft>} by the id of the conversation */
const drafts = new Map(JSON.parse(sessionStorage.getItem(STORED) ?? "[]"));

/** @param {string | null} id of a conversation; null: one that has not begun @returns {Draft} */
export function draftOf(id) {
  return drafts.get(id ?? NEW) ?? { words: "", files: [] };
}

/** @param {string | null} id @param {Draft} draft */
export function keepDraft(id, draft) {
  if (draft.words === "" && draft.files.length === 0) drafts.delete(id ?? NEW);
  else drafts.set(id ?? NEW, draft);
}

export function forgetDrafts() {
  drafts.clear();
}

/** Keeps the drafts for a reload. */
export function storeDrafts() {
  const all = [...drafts];
  try {
    sessionStorage.setItem(STORED, JSON.stringify(all));
  } catch {
    const withoutFiles = all.map(([id, { words }]) => [id, { words, files: [] }]); // which are larger than a browser keeps
    sessionStorage.setItem(STORED, JSON.stringify(withoutFiles));
  }
}
