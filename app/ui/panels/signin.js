// Asks for the API key when the server wants one. The key stays in this tab, and is sent in a header only.

import { access, ApiError, call, hasKey, setKey } from "../core/api.js";
import { byId } from "../core/dom.js";

export class SignIn {
  /** @param {() => void} accepted called when the server takes the key */
  constructor(accepted) {
    this.accepted = accepted;
    this.dialog = byId("sign-in", HTMLDialogElement);
    this.field = byId("key", HTMLInputElement);
    this.problem = byId("key-problem", HTMLParagraphElement);
    this.button = byId("key-send", HTMLButtonElement);
    byId("key-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.field.readOnly) this.#try();
    });
    this.dialog.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without a key
    access.addEventListener("refused", () => this.open());
  }

  open() {
    if (this.dialog.open) return;
    this.problem.textContent = hasKey() ? "The server does not accept this key any more." : "";
    setKey(null);
    this.dialog.showModal();
  }

  /** Tries the key that was entered. Until the server has answered, no other one can be entered. */
  async #try() {
    this.#enable(false);
    this.problem.textContent = "";
    setKey(this.field.value.trim());
    try {
      await call("GET", "chat/models");
      this.field.value = "";
      this.dialog.close();
      this.accepted();
    } catch (error) {
      setKey(null);
      const isWrong = error instanceof ApiError && error.status === 401;
      this.problem.textContent = isWrong ? "The server does not accept this key." : String(/** @type {Error} */ (error).message);
      this.field.select();
    } finally {
      this.#enable(true);
    }
  }

  /** @param {boolean} isEnabled */
  #enable(isEnabled) {
    this.field.readOnly = !isEnabled;
    this.button.disabled = !isEnabled;
  }
}
