"""Owns the commands that are about models and about the server."""

from collections.abc import Iterable, Sequence

from app.cli.commands.command import Choice, Command
from app.cli.conversation.session import Session
from app.cli.errors import Refused, UsageError
from app.cli.output.formatting import age_of, count, size_of
from app.cli.output.model_table import listed, loads_of, model_table, served_from


async def list_models(session: Session, argument: str) -> None:
    await session.refresh_models()
    terminal = session.terminal
    terminal.say("Available Models:", "bold", "📋")
    if loads_of(session.models.values()):
        from app.cli.output.live_models import LiveModels  # what paints takes long to import

        await LiveModels(session).run()
    else:
        entries = listed(session.models.values())
        terminal.show(model_table(entries, terminal.style.symbols, terminal.console.width))
    for entry in session.models.values():
        if entry.error is not None:
            terminal.note(f"{entry.name} failed: {entry.error}")


async def switch(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("/switch needs the name of a model.", "/models lists them.")
    session.terminal.say(f"Switching to model: {argument}", symbol="🔄")
    reply = await session.switch(argument)
    session.terminal.say(reply.message, symbol="✅")
    session.terminal.note(f"Served from {served_from(reply.model_id)}, loaded in {reply.load_time:.1f} s.")
    await session.refresh_models()


async def choose_again(session: Session) -> None:
    """After the server was lost: switches to the model that was chosen, or says which one answers instead."""
    if session.chosen_model in (None, session.current_model):
        return
    try:
        await switch(session, session.chosen_model)
    except Refused as error:
        session.terminal.problem(error)
        session.terminal.note(f"{session.current_model} answers in place of {session.chosen_model}.")


async def compare(session: Session, argument: str) -> None:
    from app.cli.commands.comparison import Comparison  # Markdown takes long to import

    names = argument.replace(",", " ").split()
    if not names:
        raise UsageError("/compare needs the names of models.", "/models lists them.")
    if session.transcript.turns == 0:
        raise UsageError("There is no question to compare answers to.", "Type a message first.")
    await Comparison(session, list(dict.fromkeys(names))).run()
    session.terminal.note("None of these joined the conversation: /switch and /retry take one of the models.")


async def status(session: Session, argument: str) -> None:
    from rich.table import Column, Table  # slow to import, and not needed for the first prompt

    health = await session.client.health()
    model = health.model
    table = Table.grid(Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2))  # a path stays whole
    table.add_row("server", f"{session.client.url}, version {health.version}, {health.status}")
    table.add_row("up since", age_of(health.timestamp.timestamp() - health.uptime))
    table.add_row("requests", f"{health.active_requests} running, {health.queued_requests} waiting")
    if model is not None:
        info = await session.client.model_info(model.name)
        where = " ".join(filter(None, (info.device, info.dtype)))
        memory = "" if info.memory_bytes is None else f", {size_of(info.memory_bytes)} of memory"
        table.add_row("model", f"{model.name}, {model.status}, {where}{memory}")
        table.add_row("served from", served_from(model.model_id or "nothing yet"))
    for loading in health.loading:
        table.add_row("loading", f"{loading.model_name}: {loading.stage} {loading.fraction:.0%}")
    transcript = session.transcript
    table.add_row("conversation", f"{transcript.name or 'not begun'}, {count(transcript.turns, 'turn')}")
    if session.autosave.folder is not None and transcript.turns:
        table.add_row("kept in", str(session.autosave.folder / f"{transcript.session_id}.json"))
    session.terminal.show(table)


def models(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [(name, entry.description) for name, entry in session.models.items() if name not in typed]


def _first_model(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return models(session, typed) if not typed else ()


COMMANDS = (
    Command(
        "models",
        "",
        "list the models",
        list_models,
        more="While one of them loads, the list shows how far it is. Ctrl-C leaves it; the server loads on.",
    ),
    Command(
        "switch",
        "MODEL",
        "go on with another model",
        switch,
        _first_model,
        more="The old model answers until the new one is ready. Ctrl-C gives it up.",
    ),
    Command(
        "compare",
        "MODEL [MODEL]",
        "ask several models the last question, side by side",
        compare,
        models,
        more="The answers stay out of the conversation. Ctrl-C stops all of them.",
    ),
    Command("status", "", "show the server, the model and this conversation", status),
)
