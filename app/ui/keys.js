// The keys that work everywhere on the page. docs/page.md lists them.

import { byId } from "./core/dom.js";
import { openSidebar } from "./panels/layout.js";

/** @import { Chat } from "./chat/chat.js" */
/** @import { Sidebar } from "./panels/sidebar.js" */

/** @type {Record<string, number>} */
const PAGES = { PageUp: -1, PageDown: 1 };
const SHARE_OF_PAGE = 0.9; // the rest stays in sight

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
    else if (isCommand && event.key === "/") byId("keys", HTMLDialogElement).showModal();
    else if (event.key in PAGES && !isScrolledItself()) scroll(PAGES[event.key] ?? 0);
    else if (event.key === "Escape" && !isMenuOpen && chat.turn !== null) chat.actions.stop();
    else if (isTyping(event)) return byId("message", HTMLTextAreaElement).focus(); // the key itself is typed there
    else return;
    event.preventDefault();
  });
}

/** @param {number} pages down; up: negative */
function scroll(pages) {
  const scroller = byId("scroller", HTMLDivElement);
  scroller.scrollBy({ top: pages * SHARE_OF_PAGE * scroller.clientHeight });
}

/** Whether the element with the focus takes the keys for pages itself. */
function isScrolledItself() {
  const focused = document.activeElement;
  if (focused === document.body) return false;
  return !(focused instanceof HTMLTextAreaElement && focused.id === "message" && focused.scrollHeight <= focused.clientHeight);
}

/** Whether a text is begun while no element has the focus. @param {KeyboardEvent} event */
function isTyping(event) {
  const isText = event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey && event.key !== " ";
  return isText && document.activeElement === document.body;
}
