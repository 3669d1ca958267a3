// Keeps values in this tab over a reload, as far as the browser has room for them.

/** @param {string} name @param {unknown} value JSON @returns {boolean} whether there was room; if not, the old value stays */
export function keepInTab(name, value) {
  try {
    sessionStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** @param {string} name */
export function forgetInTab(name) {
  sessionStorage.removeItem(name);
}

/** @template T @param {string} name @param {T} otherwise @returns {T} */
export function keptInTab(name, otherwise) {
  const text = sessionStorage.getItem(name);
  return text === null ? otherwise : JSON.parse(text);
}
