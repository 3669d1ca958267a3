"""Tests a model without a server: loads it, asks it questions, and prints load time, speed and memory."""

import argparse
import asyncio
import sys
from contextlib import aclosing, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.composition import build_services
from app.core.api_keys import DEFAULT_OWNER
from app.core.catalogue import BUILTIN_NAME, CATALOGUE
from app.core.config import NO_MODEL, Settings, SettingsError, load_settings
from app.core.deadline import Deadline
from app.core.errors import DomainError
from app.core.models_file import with_models_of
from app.core.telemetry.logging import configure
from app.models.hub.client import Hub
from app.models.lifecycle.registry import ModelRegistry
from app.models.schemas import ChatRequest, ChatResponse, DeltaEvent, LoadProgress, SwitchModelResponse
from app.services import Services

QUESTIONS = (
    "Hello, how are you today?",
    "What is the capital of France?",
    "Write a Python function that calculates the factorial of a number.",
)
_LOG_LEVEL = "ERROR"  # also of the worker, whose lines would displace the bars; errors are printed here
console = Console()


def choose_model(settings: Settings, name: str | None) -> str:
    """The named model, or the default if it is on this machine, or else the built-in model with a notice."""
    catalogue = with_models_of(settings.models_file, CATALOGUE)
    registry = ModelRegistry(catalogue, settings.allow_any_model)
    if name is not None:
        return registry.find(name).profile.name
    default = registry.find(BUILTIN_NAME if settings.model_name == NO_MODEL else settings.model_name).profile
    if settings.model_was_chosen or Hub(settings.model_cache_dir).find(default) is not None:
        return default.name
    console.print(
        f"[dim]{default.name} is not on this machine, so the built-in model is used. "
        "To download a model, name it with --model.[/]"
    )
    return BUILTIN_NAME


class LoadBars:
    """Draws the progress of a load: a bar for the stage, and one for each file that is being downloaded."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._stage = ""

    def show(self, progress: LoadProgress) -> None:
        """Draws the stage. Those before it have ended, even if their last report says less."""
        if progress.stage != self._stage:
            self._stage = progress.stage
            for task in self._tasks.values():
                self._bars.update(task, completed=1.0)
        self._draw(f"{progress.model_name}: {progress.stage}", progress.fraction, facts(progress))
        for file in progress.files:
            if 0 < file.done_bytes < file.total_bytes or f"  {file.name}" in self._tasks:
                self._draw(f"  {file.name}", file.done_bytes / max(1, file.total_bytes), "")

    def _draw(self, title: str, fraction: float, facts_text: str) -> None:
        if title not in self._tasks:
            self._tasks[title] = self._bars.add_task(title, total=1.0, facts="")
        self._bars.update(self._tasks[title], completed=fraction, facts=facts_text)


def facts(progress: LoadProgress) -> str:
    """Bytes, rate and remaining time of a download. Empty if nothing is downloaded."""
    if progress.done_bytes is None or progress.total_bytes is None:
        return ""
    text = f"{progress.done_bytes / 1e6:,.0f}/{progress.total_bytes / 1e6:,.0f} MB"
    if progress.bytes_per_s:
        text += f", {progress.bytes_per_s / 1e6:,.1f} MB/s"
    return text if progress.seconds_left is None else f"{text}, {progress.seconds_left:,.0f} s left"


async def load(services: Services, name: str) -> SwitchModelResponse:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bars = LoadBars(progress)
        async with aclosing(services.models.load(name)) as events:
            async for event in events:
                match event:
                    case LoadProgress():
                        bars.show(event)
                    case SwitchModelResponse():
                        return event
    raise AssertionError("a load ends with its response or an error")


async def ask(services: Services, request: ChatRequest) -> ChatResponse:
    """Prints the reply while it is generated, and returns the response."""
    console.print("[bold green]Assistant:[/] ", end="")
    deadline = Deadline.after(services.request_timeout_s)
    async with aclosing(await services.chats.chat(DEFAULT_OWNER, request, deadline)) as records:
        async for record in records:
            match record.event:
                case DeltaEvent(text=text):
                    console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
                case ChatResponse() as response:
                    console.print()
                    return response
    raise AssertionError("a turn ends with its response or an error")


def speed(reply: ChatResponse) -> str:
    assert reply.timings is not None and reply.usage is not None, "only a stopped turn has none"
    rate = reply.timings.tokens_per_second
    shown = "–" if rate is None else f"{rate:.0f} tokens/s"
    return f"{reply.usage.completion_tokens} tokens, first after {reply.timings.first_token_s:.2f} s, {shown}"


async def converse(services: Services, name: str) -> None:
    console.print("Type a message. An empty line or Ctrl-D ends the conversation.")
    conversation_id = None
    with suppress(EOFError):
        while message := (await asyncio.to_thread(console.input, "[bold cyan]You:[/] ")).strip():
            reply = await ask(
                services, ChatRequest(message=message, conversation_id=conversation_id, model_name=name)
            )
            conversation_id = reply.conversation_id
            console.print(f"[dim]{speed(reply)}[/]")


async def check(services: Services, name: str) -> None:
    for question in QUESTIONS:
        console.print(f"[bold cyan]You:[/] {question}")
        reply = await ask(
            services, ChatRequest(message=question, model_name=name, temperature=0, max_tokens=200)
        )
        console.print(f"[dim]{speed(reply)}[/]")


def report(services: Services, loaded: SwitchModelResponse) -> None:
    info = services.status.info(loaded.model_name)
    table = Table(title=f"{info.display_name}", show_header=False)
    table.add_row("served from", loaded.model_id)
    table.add_row("load time", f"{loaded.load_time:.1f} s")
    table.add_row("parameters", f"{info.parameters:,}")
    table.add_row("device, type", f"{info.device}, {info.dtype}, weights in {info.weights}")
    table.add_row("context", f"{info.context_length:,} tokens")
    table.add_row("memory", f"{(info.memory_bytes or 0) / 1e6:,.0f} MB")
    console.print(table)


async def run(settings: Settings, arguments: argparse.Namespace) -> None:
    name = choose_model(settings, arguments.model)
    services = build_services(settings.model_copy(update={"model_name": name, "log_level": _LOG_LEVEL}))
    try:
        loaded = await load(services, name)
        await (converse if arguments.interactive else check)(services, name)
        report(services, loaded)
    finally:
        await services.models.close()


def fail(message: str, hint: str | None = None) -> None:
    console.print(message, style="red", markup=False)
    if hint is not None:
        console.print(hint, markup=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", help="the name of a model from the catalogue (default: the configured model)"
    )
    parser.add_argument(
        "--interactive", action="store_true", help="hold a conversation instead of asking the questions"
    )
    arguments = parser.parse_args()
    configure(_LOG_LEVEL)
    try:
        asyncio.run(run(load_settings(), arguments))
    except SettingsError as error:
        fail(f"Wrong settings. {error}")
        return 2
    except DomainError as error:
        fail(error.message, error.hint)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
