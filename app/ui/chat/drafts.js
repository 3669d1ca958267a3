// Keeps what was written and attached in each conversation but not sent, until the tab is closed.

import { forgetInTab, keepInTab, keptInTab } from "../core/storage.js";

/** @import { TextFile } from "./attachments.js" */

/** @typedef {{ words: string, files: TextFile[], lost?: string[] }} Draft  lost: names of files that were too large for a reload */

const STORED = "drafts";
const NEW = ""; // stands for a conversation that has not begun

/** @type {Map<string, Draft>} by the id of the conversation */
const drafts = new Map(keptInTab(STORED, []));

/** @param {string | null} id of a conversation; null: one that has not begun @returns {Required<Draft>} */
export function draftOf(id) {
  return { words: "", files: [], lost: [], ...drafts.get(id ?? NEW) };
}

/** @param {string | null} id @param {Draft} draft */
export function keepDraft(id, draft) {
  const { words, files, lost = [] } = draft;
  if (words === "" && files.length === 0 && lost.length === 0) drafts.delete(id ?? NEW);
  else drafts.set(id ?? NEW, draft);
}

export function forgetDrafts() {
  drafts.clear();
}

/** Forgets all drafts but that of the conversation that has not begun. */
export function forgetDraftsOfConversations() {
  for (const id of [...drafts.keys()]) if (id !== NEW) drafts.delete(id);
}

/** Keeps the drafts for a reload, without the largest files if there is no room. @returns {boolean} whether all of them are kept */
export function storeDrafts() {
  const all = [...drafts];
  for (let removed = 0; ; removed += 1) {
    if (keepInTab(STORED, all)) return removed === 0;
    if (removeLargestFile(all)) continue;
    forgetDraftsOfReload();
    return false;
  }
}

/** Makes room for other things that are kept for a reload. The next `storeDrafts` keeps what then has room. */
export function forgetDraftsOfReload() {
  forgetInTab(STORED);
}

/** @param {[string, Draft][]} all is changed, its drafts are not @returns {boolean} whether there was a file */
function removeLargestFile(all) {
  const sizes = all.map(([, { files }]) => Math.max(-1, ...files.map((file) => file.text.length)));
  const place = sizes.indexOf(Math.max(...sizes));
  const entry = all[place];
  const file = entry?.[1].files.find(({ text }) => text.length === sizes[place]);
  if (entry === undefined || file === undefined) return false;
  const [id, { words, files, lost = [] }] = entry;
  all[place] = [id, { words, files: files.filter((other) => other !== file), lost: [...lost, file.name] }];
  return true;
}
