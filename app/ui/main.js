// Puts the page together: its parts, its addresses (`#/c/ID`) and its keys.

import { setKey } from "./core/api.js";
import { Connection } from "./core/connection.js";
import { byId } from "./core/dom.js";
import { onChange } from "./core/state.js";
import { Chat } from "./chat/chat.js";
import { Compare } from "./chat/compare.js";
import { forgetDrafts } from "./chat/drafts.js";
import { watchTurns } from "./chat/elsewhere.js";
import { showGauge } from "./chat/gauge.js";
import { resumeTurns } from "./chat/resume.js";
import { listenToKeys } from "./keys.js";
import { closeSidebar, listenToLayout } from "./panels/layout.js";
import { Menu } from "./panels/menu.js";
import { ModelMenu } from "./panels/models.js";
import { SettingsDrawer } from "./panels/settings.js";
import { Sidebar } from "./panels/sidebar.js";
import { SignIn } from "./panels/signin.js";

const ADDRESS = /^#\/c\/(\w+)$/;

/** @returns {string | null} the id of the conversation that the address names */
function addressed() {
  return ADDRESS.exec(location.hash)?.[1] ?? null;
}

/** @param {string | null} id */
function go(id) {
  const address = id === null ? "#/" : `#/c/${encodeURIComponent(id)}`;
  if (location.hash === address) show();
  else location.hash = address;
}

function show() {
  closeSidebar();
  chat.open(addressed());
}

const heading = byId("heading", HTMLHeadingElement);
const compare = new Compare({ openId: () => chat.id, head: () => chat.conversation?.head_id ?? null, open: go });
const chat = new Chat({ open: go, compare: (ids) => chat.id !== null && compare.show(chat.id, ids) });
const models = new ModelMenu({ own: () => chat.conversation?.model_name ?? null, chosen: (name) => chat.actions.useModel(name) });
const sidebar = new Sidebar({
  openId: () => chat.id,
  leave: (id) => chat.id === id && go(null),
  renamed: (id) => chat.id === id && chat.refresh(),
});
const drawer = new SettingsDrawer(chat, () => models.name);
const connection = new Connection(() => {
  load();
  chat.reconnect();
});

function load() {
  models.load();
  sidebar.load();
}

function begin() {
  connection.check();
  load();
  show();
}

function signOut() {
  setKey(null);
  forgetDrafts();
  location.reload();
}

new Menu({ chat, compare, open: go, signOut });
const signIn = new SignIn(begin);
onChange("conversation", () => showGauge(chat.branch, chat.turn));
onChange("turns", () => showGauge(chat.branch, chat.turn));
onChange("models", () => showGauge(chat.branch, chat.turn));
onChange("conversation", () => {
  document.title = heading.textContent = chat.title;
  heading.hidden = chat.id === null && chat.turn === null; // a new conversation has another one
});
onChange("health", () => models.load());
byId("open-settings", HTMLButtonElement).addEventListener("click", () => drawer.open());
byId("new-chat", HTMLAnchorElement).addEventListener("click", () => setTimeout(() => chat.composer.focus()));
window.addEventListener("hashchange", show);
window.addEventListener("focus", () => {
  sidebar.load();
  if (chat.turn === null) chat.refresh();
});
listenToLayout();
listenToKeys({ chat, sidebar, newChat: () => go(null) });
await resumeTurns({
  open: (id) => addressed() === null && history.replaceState(null, "", `#/c/${encodeURIComponent(id)}`),
  giveBack: (question, id) => chat.composer.giveBack(question, id),
});
begin();
watchTurns(() => chat.id, () => !signIn.dialog.open);
