// The keys that work everywhere on the page. docs/page.md lists them.

import { byId } from "./core/dom.js";
import { openSidebar } from "./panels/layout.js";

/** @import { Chat } from "./chat/chat.js" */
/** @import { Sidebar } from "./panels/sidebar.js" */

/** @param {{ chat: Chat, sidebar: Sidebar, newChat: () => void }} page */
export function listenToKeys({ chat, sidebar, newChat }) {
  document.addEventListener("keydown", (event) => {
    const isCommand = event.ctrlKey || event.metaKey;
    const isMenuOpen = document.querySelector(":popover-open") !== null; // which Escape closes
    if (document.querySelector("dialog[open]") !== null) return; // which has its own keys
    if (isCommand && event.key.toLowerCase() === "k") {
      openSidebar();
      sidebar.search.focus();
      sidebar.search.select();
    } else if (isCommand && event.shiftKey && event.key.toLowerCase() === "o") newChat();
    else if (event.key === "Escape" && !isMenuOpen && chat.turn !== null) chat.actions.stop();
    else if (isTyping(event)) return byId("message", HTMLTextAreaElement).focus(); // the key itself is typed there
    else return;
    event.preventDefault();
  });
}

/** Whether a text is begun while no element has the focus. @param {KeyboardEvent} event */
function isTyping(event) {
  const isText = event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey && event.key !== " ";
  return isText && document.activeElement === document.body;
}
