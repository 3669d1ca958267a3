"""Runs the steps one after another, and keeps what each has found even if it fails, hangs or is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.gpu.figures import FILE_VARIABLE
from tests.gpu.steps import Step, command

_TAIL = 3000  # characters of a failed step's log that are printed at the end

Result = dict[str, Any]  # a JSON document


class Run:
    """One run. `out` gets results.json, table.md and log.txt after every step."""

    def __init__(self, out: Path, limit_s: float) -> None:
        self._out = out
        self._ends_at = time.monotonic() + limit_s
        self._results: dict[str, Result] = {}
        self._background: list[tuple[Step, subprocess.Popen[bytes]]] = []

    def run(self, steps: Iterable[Step]) -> int:
        """Returns the number of steps that failed."""
        (self._out / "log.txt").write_bytes(b"")
        try:
            for step in steps:
                if step.is_background:
                    self._background.append((step, self._start(step, self._out / f"{step.name}.log")))
                else:
                    self._run_step(step)
        finally:
            for step, process in self._background:
                self._end(process)
                self._results[step.name] = {"status": process.returncode}
            self._keep()
        failed = [name for name, result in self._results.items() if result["status"] != 0]
        sys.stdout.write(self._table() + "".join(self._failure(name) for name in failed))
        return len(failed)

    def _run_step(self, step: Step) -> None:
        limit_s = min(step.limit_s, self._ends_at - time.monotonic())
        if limit_s <= 0:
            self._results[step.name] = {"status": "no time left"}
            return
        sys.stdout.write(f"{time.strftime('%T')} {step.name}\n")
        sys.stdout.flush()
        figures = self._out / "current.json"
        figures.unlink(missing_ok=True)
        began = time.monotonic()
        process = self._start(step, self._out / "log.txt", figures)
        try:
            process.wait(limit_s)
            status: object = process.returncode
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit_s:.0f} s"
        self._end(process)
        found = json.loads(figures.read_text()) if figures.exists() else {}
        figures.unlink(missing_ok=True)
        self._results[step.name] = {
            "status": status,
            "seconds": round(time.monotonic() - began, 1),
            "figures": found,
        }
        self._keep()

    def _start(self, step: Step, log: Path, figures: Path | None = None) -> "subprocess.Popen[bytes]":
        variables = step.environment | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        if figures is not None:
            variables[FILE_VARIABLE] = str(figures)
        with log.open("ab") as stream:
            stream.write(f"\n===== {step.name}\n".encode())
            stream.flush()
            return subprocess.Popen(
                command(step),
                env=os.environ | variables,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # so that its workers can be ended with it
            )

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """Ends the step's process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)

    def _keep(self) -> None:
        (self._out / "results.json").write_text(json.dumps(self._results, indent=1) + "\n")
        (self._out / "table.md").write_text(self._table())

    def _table(self) -> str:
        lines = ["| step | status | s |", "|---|---|---|"]
        for name, result in self._results.items():
            status = "passed" if result["status"] == 0 else result["status"]
            lines.append(f"| {name} | {status} | {result.get('seconds', '')} |")
        for name, result in self._results.items():
            if result.get("figures"):
                lines += ["", f"| {name} | |", "|---|---|"]
                lines += [f"| {key} | {_text(value)} |" for key, value in result["figures"].items()]
        return "\n".join(lines) + "\n"

    def _failure(self, name: str) -> str:
        log = (self._out / "log.txt").read_text(errors="replace")
        own = log.rpartition(f"\n===== {name}\n")[2].partition("\n===== ")[0]
        return f"\n----- {name}\n{own[-_TAIL:]}\n"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
