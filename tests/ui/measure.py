"""Measures the page in headless Chromium and prints JSON: `python -m tests.ui.measure`. Times are in ms."""

import json
import shutil
import statistics
import sys
import time
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from tests.ui.scripted_models import Script, page_server, words

LOADS = 10
MESSAGES = 2000
TOKENS_PER_S = 500
TOKENS = 5000
TYPED = "The quick brown fox jumps over the lazy dog, and then it goes home."
TEXT = "Some **words** about `code`, with a [link](https://example.org/):\n\n- one\n- two\n\nAnd an end."
PARAGRAPH = words("A sentence with **bold** words and `code`, as a model writes it in a long answer.\n\n")
BLOCK = words("```python\ndef add(a, b):\n    return a + b\n```\n\n- one item\n- another item\n\n")

WATCH_FRAMES = """() => {
  window.frames_ms = []; window.tasks_ms = []; window.inputs_ms = [];
  let last = performance.now();
  const next = (now) => { frames_ms.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next);
  const watch = (type, list, more) =>
    new PerformanceObserver((seen) => seen.getEntries().forEach((entry) => list.push(entry.duration)))
      .observe({ type, ...more });
  watch("longtask", tasks_ms, {});
  watch("event", inputs_ms, { durationThreshold: 16 });
}"""
SCROLL = """async () => {
  const box = document.querySelector("#scroller");
  for (let top = box.scrollHeight; top > 0; top -= 600) {
    box.scrollTop = top;
    await new Promise(requestAnimationFrame);
  }
}"""


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is not installed (Debian: apt-get install chromium)")
    script = Script(tokens_per_s=TOKENS_PER_S)
    script.answer("Write", (PARAGRAPH * 3 + BLOCK) * (TOKENS // len(PARAGRAPH * 3 + BLOCK)))
    with page_server(script) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        report = {
            "first_paint": [_first_paint(browser, url) for _ in range(LOADS)],
            "many_messages": _many_messages(browser, url),
            "fast_answer": _fast_answer(browser, url, script),
        }
        browser.close()
    report["first_paint"] = statistics.median(report["first_paint"])
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _first_paint(browser: Browser, url: str) -> Any:  # Any: what a script of the page returns
    """The time of the first contentful paint, with an empty cache."""
    page = browser.new_page(bypass_csp=True)
    page.goto(f"{url}/ui")
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    found = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.close()
    return found


def _many_messages(browser: Browser, url: str) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[n % 2], "content": f"{n}. {TEXT}"} for n in range(MESSAGES)]
    started = httpx.post(
        f"{url}/api/v1/chat/new", json={"messages": messages}, timeout=60, trust_env=False, verify=False
    )
    page = browser.new_page(bypass_csp=True)
    page.goto(f"{url}/ui#/c/{started.json()['conversation_id']}")
    page.wait_for_function(f"document.querySelectorAll('.message').length === {MESSAGES}")
    shown = page.evaluate("performance.now()")
    page.evaluate(WATCH_FRAMES)
    page.evaluate(SCROLL)
    return {"shown_after": shown} | _figures(page)


def _fast_answer(browser: Browser, url: str, script: Script) -> dict[str, Any]:
    page = browser.new_page(bypass_csp=True)
    page.goto(f"{url}/ui")
    page.wait_for_selector("#greeting h1")
    page.evaluate(WATCH_FRAMES)
    field = page.get_by_label("Message", exact=True)
    field.fill("Write")
    page.keyboard.press("Enter")
    page.wait_for_selector(".assistant .markdown")
    began = time.monotonic()
    field.press_sequentially(TYPED, delay=80)
    typed = field.input_value()
    page.wait_for_selector(".assistant .facts:has-text('tokens')", timeout=120_000)
    tokens_per_s = len(script.replies["Write"][0]) / (time.monotonic() - began)
    return {"typed_whole": typed == TYPED, "tokens_per_s": tokens_per_s} | _figures(page)


def _figures(page: Page) -> dict[str, Any]:
    frames, tasks, inputs = (page.evaluate(name) for name in ("frames_ms", "tasks_ms", "inputs_ms"))
    spread = statistics.quantiles(frames, n=100)
    return {
        "frames": len(frames),
        "frame_median": spread[49],
        "frame_99": spread[98],
        "long_tasks": len(tasks),
        "longest_task": max(tasks, default=0),
        "slowest_input": max(inputs, default=0),
    }


if __name__ == "__main__":
    main()
