// Deletes all conversations.

import { call } from "../core/api.js";
import { count } from "../core/format.js";
import { changed } from "../core/state.js";
import { forgetDraftsOfConversations } from "../chat/drafts.js";
import { confirm } from "./confirm.js";
import { sayError, toast } from "./toast.js";

/** @import { ConversationListResponse, DeletedAllResponse } from "../wire.d.ts" */

/** Asks before it deletes all conversations. @returns {Promise<boolean>} whether it did */
export async function deleteAll() {
  try {
    /** @type {ConversationListResponse} */
    const { total } = await call("GET", "chat/conversations?limit=1");
    if (total === 0) return says("There are no conversations to delete.");
    const all = total === 1 ? "1 conversation will be deleted for good." : `${count(total)} conversations will be deleted for good, also those of the terminal client.`;
    if (!(await confirm("Delete all conversations?", all, "Delete all", true))) return false;
    /** @type {DeletedAllResponse} */
    const { deleted, kept } = await call("DELETE", "chat/conversations");
    if (kept === 0) forgetDraftsOfConversations();
    toast(`Deleted: ${count(deleted)}.${kept > 0 ? ` Kept, because their answers are arriving: ${count(kept)}.` : ""}`);
    changed("conversations");
    return true;
  } catch (error) {
    sayError(error);
    return false;
  }
}

/** @param {string} text */
function says(text) {
  toast(text);
  return false;
}
