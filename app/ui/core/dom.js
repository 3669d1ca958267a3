// Builds elements. Texts become text nodes, so nothing that the server sends is ever read as HTML.

/** @typedef {Node | string | null | false | undefined} Child */
/** @typedef {Record<string, unknown>} Props attributes; `on…` are listeners, `class` and booleans as in HTML */

/**
 * The attributes are set last, because a browser that has seen `dir="auto"` looks for the first letter anew with each child.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Props} [props] @param {Child[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  element.append(...shown(children));
  for (const [name, value] of Object.entries(props)) set(element, name, value);
  return element;
}

/** @param {Element} element @param {string} name @param {unknown} value */
export function set(element, name, value) {
  if (name.startsWith("on")) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
  else if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}

/** Replaces the children of an element. @param {Element} element @param {Child[]} children */
export function fill(element, ...children) {
  element.replaceChildren(...shown(children));
}

/** @param {Child[]} children @returns {(Node | string)[]} */
function shown(children) {
  return children.filter((child) => child !== null && child !== false && child !== undefined);
}

/**
 * A button with an icon, and a name for screen readers and as a tooltip.
 * @param {SVGElement} icon @param {string} name @param {(event: MouseEvent) => void} onclick @param {Props} [props]
 * @returns {HTMLButtonElement}
 */
export function iconButton(icon, name, onclick, props = {}) {
  return el("button", { type: "button", class: "icon-button", "aria-label": name, title: name, onclick, ...props }, icon);
}

/**
 * The element of the page with this id.
 * @template {HTMLElement} T
 * @param {string} id @param {new () => T} type @returns {T}
 */
export function byId(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`#${id} is missing`);
  return element;
}
