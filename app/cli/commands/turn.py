"""Commands about the last turn: /retry, /continue, /undo and /edit."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence

from app.cli.commands.command import Choice, Command, number_of, unexpected
from app.cli.commands.conversation import show_others
from app.cli.commands.model import model_names
from app.cli.commands.settings import set_value
from app.cli.conversation.following import OVERTAKEN
from app.cli.conversation.sampling_settings import KEYS, SamplingSettings, range_of
from app.cli.conversation.session import Session
from app.cli.errors import Refused, UsageError
from app.cli.input.editor import edit_text
from app.cli.output.formatting import count


async def retry(session: Session, argument: str) -> None:
    """Regenerates the last answer. `key=value` changes a setting, and `model=NAME` the model, this once."""
    settings, model_name = SamplingSettings(), None
    for pair in argument.split():
        key, _, value = pair.partition("=")
        if not value:
            raise UsageError(
                f"/retry takes KEY=VALUE, not {pair!r}.", "For example: /retry temperature=1.2 top_k=50"
            )
        if key == "model":
            model_name = value
        else:
            set_value(settings, key, value)
    async with _only_last_turn(session, "retry"):
        await session.retry(model_name, **settings.values)
    tree = session.transcript.tree
    if tree.last_answer is not None and (versions := len(tree.siblings(tree.last_answer))) > 1:
        key = "Alt-←" if session.terminal.style.symbols else "Alt-Left"
        session.terminal.note(f"Version {versions}. {key} at the empty prompt shows the one before.")


async def continue_(session: Session, argument: str) -> None:
    async with _only_last_turn(session, "continue"):
        await session.continue_()


@contextlib.asynccontextmanager
async def _only_last_turn(session: Session, name: str) -> AsyncIterator[None]:
    """Shows what other clients have changed meanwhile, if the server refuses the command for that reason.

    Raises:
        UsageError: they have, so that the turn which the command would change now is not the one it means.
    """
    try:
        yield
    except Refused as error:
        if error.code not in OVERTAKEN or not await show_others(session):
            raise
        problem = "Nothing was changed, because another client has changed this conversation meanwhile."
        raise UsageError(problem, f"/{name} would change the turn above now.") from None


async def undo(session: Session, argument: str) -> None:
    turns = number_of(argument or "1")
    if turns is None:
        raise unexpected("undo", argument, "a number of turns")
    async with _only_last_turn(session, "undo"):
        removed = await session.undo(turns)
    left = count(session.transcript.turns, "turn")
    them = "it" if removed == 1 else "them"
    session.terminal.say(
        f"Removed {count(removed, 'turn')}; {left} left. /branch brings {them} back.", symbol="↩"
    )


async def edit(session: Session, argument: str) -> None:
    transcript = await session.settled_transcript()
    asked = [message.content for message in transcript.messages if message.role == "user"]
    if not asked:
        raise UsageError("There is no message to edit yet.", "Type a message first.")
    after = (await edit_text(asked[-1], session.terminal)).strip()
    if not after or after == asked[-1].strip():
        session.terminal.note("The message was not changed.")
        return
    session.terminal.say(f"You: {after}", "cyan")
    async with _only_last_turn(session, "edit"):
        await session.edit(after)


def _retry_choices(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    models = [(f"model={name}", meaning) for name, meaning in model_names(session, ())]
    return [(f"{key}=", range_of(key)) for key in KEYS] + models


COMMANDS = (
    Command(
        "retry",
        "[KEY=VALUE...]",
        "answer the last message again; the old answer stays",
        retry,
        _retry_choices,
        more="/retry temperature=1.2 changes a setting for this answer only.\n"
        "/retry model=NAME uses another model. /versions lists all answers.",
    ),
    Command("continue", "", "extend the last answer", continue_),
    Command("undo", "[N]", "go back by one turn, or by N; /branch brings them back", undo),
    Command("edit", "", "change the last message in $EDITOR; the old one stays", edit),
)
