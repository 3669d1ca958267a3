// Watches whether the server answers, says so when it does not, and tells the page when it is back.

import { access, call } from "./api.js";
import { byId } from "./dom.js";
import { changed, state } from "./state.js";

/** @import { HealthResponse } from "../wire.d.ts" */

const CALM_MS = 15_000;
const EAGER_MS = 1000; // while the server does not answer or loads its model

export class Connection {
  /** @param {() => void} back called when the server answers again, or was restarted */
  constructor(back) {
    this.back = back;
    this.banner = byId("banner", HTMLParagraphElement);
    this.timer = 0;
    this.isLost = false;
    this.isChecking = false;
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.check());
    window.addEventListener("online", () => this.check());
    access.addEventListener("unreachable", () => !this.isLost && this.check());
  }

  async check() {
    clearTimeout(this.timer);
    if (this.isChecking) return;
    this.isChecking = true;
    const before = state.health;
    try {
      /** @type {HealthResponse} */
      const health = await call("GET", "health");
      state.health = health;
      const restarted = before !== null && before.boot_id !== health.boot_id;
      if (this.isLost || restarted) this.back();
      this.#show(false);
    } catch {
      this.#show(true);
    }
    this.isChecking = false;
    clearTimeout(this.timer);
    if (before?.status !== state.health?.status || before?.note !== state.health?.note) changed("health");
    const isCalm = !this.isLost && state.health?.status === "ok";
    this.timer = setTimeout(() => this.check(), isCalm ? CALM_MS : EAGER_MS);
  }

  /** @param {boolean} isLost */
  #show(isLost) {
    this.isLost = isLost;
    this.banner.hidden = !isLost;
  }
}
