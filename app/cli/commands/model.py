"""Commands about models: /models, /switch and /compare."""

import re
from collections.abc import Collection, Iterable, Sequence

from app.cli.commands.command import Choice, Command
from app.cli.conversation.session import Session
from app.cli.errors import Refused, UsageError
from app.cli.output.model_table import better_models, in_list_order, loads_of, model_table, served_from

MISTYPED = 0.66  # a word this similar to a name counts as a mistyped name


async def list_models(session: Session, argument: str) -> None:
    await session.refresh_models()
    terminal = session.terminal
    terminal.say("Available Models:", "bold", "📋")
    if loads_of(session.models.values()):
        from app.cli.commands.live_models import LiveModels  # slow to import

        await LiveModels(session).run()
    else:
        models = in_list_order(session.models.values())
        terminal.show(model_table(models, terminal.style.symbols, terminal.console.width))
    for model in session.models.values():
        if model.error is not None:
            terminal.note(f"{model.name} failed: {model.error}")
    current = session.models.get(session.current_model or "")
    model_id = None if current is None else current.model_id
    if suggestion := better_models(model_id, session.models, session.is_hub_reachable):
        terminal.note(suggestion)


async def switch(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("/switch needs the name of a model.", "/models lists the models.")
    session.terminal.say(f"Switching to model: {argument}", symbol="🔄")
    response = await session.switch(argument)
    session.terminal.say(response.message, symbol="✅")
    origin = served_from(response.model_id)
    session.terminal.note(f"Served from {origin}, loaded in {response.load_time:.1f} s.")
    await session.refresh_models()


async def restore_chosen_model(session: Session) -> None:
    """Switches a new server to the model that the user chose, or reports which model answers instead."""
    if session.chosen_model in (None, session.current_model):
        return
    try:
        await switch(session, session.chosen_model)
    except Refused as error:
        session.terminal.show_error(error)
        session.terminal.note(f"{session.current_model} answers instead of {session.chosen_model}.")


async def compare(session: Session, argument: str) -> None:
    from app.cli.commands.comparison import Comparison  # imports Markdown, which is slow

    await session.refresh_models()
    names, question = split_comparison(argument, session.models)
    if not names:
        raise UsageError("/compare needs the names of models.", "/models lists the models.")
    if not question and session.transcript.turns == 0:
        hint = "Type one after the names, or send a message first."
        raise UsageError("There is no question to compare answers to.", hint)
    await Comparison(session, names, question).run()
    keep = "send the question as a message" if question else "/switch to its model and /retry"
    session.terminal.note(f"These answers are not part of the conversation. To keep one, {keep}.")


def split_comparison(argument: str, known: Collection[str]) -> tuple[list[str], str]:
    """Returns the models and the question, which begins at the first word that is not a model.

    The first word is always a model, and so is a word with a slash: the path of a folder, or a repository.

    Raises:
        UsageError: the question begins like a mistyped name.
    """
    names: dict[str, None] = {}  # without repetitions, in order
    for word in re.finditer(r"[^\s,]+", argument):
        if names and word[0] not in known and "/" not in word[0]:
            _check_is_no_model(word[0], known)
            return list(names), argument[word.start() :]
        names[word[0]] = None
    return list(names), ""


def _check_is_no_model(word: str, known: Collection[str]) -> None:
    from difflib import get_close_matches  # few commands need it

    if near := get_close_matches(word.lower(), known, n=1, cutoff=MISTYPED):
        hint = f"Did you mean {near[0]}? A question that begins like this can be typed as a message."
        raise UsageError(f"No model is named {word}.", hint)


def model_names(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [(name, model.description) for name, model in session.models.items() if name not in typed]


def _first_model_name(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return model_names(session, typed) if not typed else ()


COMMANDS = (
    Command(
        "models",
        "",
        "list the models",
        list_models,
        more="While a model is loading, the list shows its progress.\n"
        "Ctrl-C closes the list; loading continues.",
    ),
    Command(
        "switch",
        "MODEL",
        "switch to another model",
        switch,
        _first_model_name,
        more="The old model keeps answering until the new one is ready.\nCtrl-C cancels the switch.",
    ),
    Command(
        "compare",
        "MODEL [MODEL...] [QUESTION]",
        "ask several models this question, or the last one, side by side",
        compare,
        model_names,
        more="The question begins at the first word that is no model.\n"
        "The answers are not added to the conversation. Ctrl-C stops all of them.",
    ),
)
