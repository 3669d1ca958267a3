"""Commands about the current conversation: /new, /history, /follow, /title and /clear."""

import contextlib

from app.cli.commands.command import Command, number_of, unexpected
from app.cli.conversation.following import OVERTAKEN, catch_up, follow
from app.cli.conversation.session import Session
from app.cli.errors import ClientError, Refused, UsageError
from app.cli.transcripts.message_tree import TreeMessage
from app.cli.transcripts.transcript_file import Transcript

FOLLOW = "/follow"  # the line that the prompt runs by itself
MOST_OVERTAKEN = 5  # times that others may come before a message; a faulty server says so each time


async def new(session: Session, argument: str) -> None:
    system_prompt = session.transcript.system_prompt
    session.begin(Transcript(system_prompt=system_prompt, title=argument or None))
    session.terminal.say("New conversation.", symbol="🆕")
    show_system_prompt(session)


async def history(session: Session, argument: str) -> None:
    turns = number_of(argument)
    if argument and turns is None:
        raise unexpected("history", argument, "a number of turns")
    transcript = await session.settled_transcript()
    if not transcript.messages:
        session.terminal.note("This conversation has no messages yet.")
    for position, message in enumerate(transcript.messages[_first_shown(transcript, turns) :]):
        if position:
            session.terminal.say("")
        await show_message(session, message)


def _first_shown(transcript: Transcript, turns: int | None) -> int:
    """Returns the place of the message with which the last turns begin."""
    asked = [at for at, message in enumerate(transcript.messages) if message.role == "user"]
    return asked[-min(turns, len(asked))] if turns is not None and asked else 0


async def show_message(session: Session, message: TreeMessage) -> None:
    if message.role == "user":
        session.terminal.end_answer()
        session.terminal.say("You:", "bold cyan")
    else:
        name = "Tool" if message.role == "tool" else "Assistant"
        cut = " (interrupted)" if message.finish_reason == "interrupted" else ""
        session.terminal.heading(f"{name}{cut}:")
    async with session.terminal.answer() as view:
        if message.thinking and not session.terminal.style.folds_thoughts:
            view.think(message.thinking)
        view.feed(message.shown)


async def show_running_turn(session: Session) -> bool:
    """Shows the last turn if its answer is still arriving, and returns whether it was."""
    turn = session.server_copy.running_turn
    if turn is None:
        return False
    if not turn.is_own:
        session.terminal.note("Another client has asked here, and the answer is still arriving:")
    elif turn.is_running:
        session.terminal.note("The last answer was cut off here. The server has gone on with it:")
    else:
        session.terminal.note("The last answer was cut off. The server has this of it:")
    if turn.question is not None:
        await show_message(session, turn.question)
    await follow(session)
    return True


async def follow_others(session: Session, argument: str) -> None:
    """Shows what other clients have asked in this conversation since, and the answer that is arriving."""
    if not await show_others(session):
        session.terminal.note("No other client has asked here since.")


async def show_others(session: Session) -> bool:
    """Shows what other clients have changed, and the answer that is arriving. Returns whether there is any
    of it."""
    changes = await catch_up(session)
    if changes.has_left:
        session.terminal.note("Another client has gone to another place in this conversation. Its last turn:")
        await history(session, "1")
    elif changes.new:
        session.terminal.note("Another client has asked here:")
        for message in changes.new:
            await show_message(session, message)
    return await show_running_turn(session) or changes.has_left or bool(changes.new)


async def send(session: Session, text: str) -> None:
    """Sends a message. What other clients have asked meanwhile is shown first, because the message follows
    it."""
    message = await session.with_files(text)
    for _ in range(MOST_OVERTAKEN):
        try:
            return await session.ask(message)
        except Refused as error:
            if not await _may_follow(session, error):
                raise
            session.draft = text
    await session.ask(message)


async def _may_follow(session: Session, error: Refused) -> bool:
    """Returns whether the message that was refused may be sent now, behind what another client has asked.

    Where that client has only gone back to an older message, the user's goes on where the user is.
    """
    if error.code not in OVERTAKEN:
        return False
    if _is_accepted(session, error):
        return True
    with contextlib.suppress(ClientError):  # the refusal says enough
        if await show_others(session):
            session.terminal.note("Your message follows.")
            return True
    return _is_accepted(session, error)


def _is_accepted(session: Session, error: Refused) -> bool:
    return error.code == "head_changed" and session.server_copy.accepts(error.head_id)


async def title(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("/title needs a text.", "/title TEXT gives this conversation a title.")
    await session.rename(argument)
    session.terminal.say(f"This conversation is now called {argument}.", symbol="📝")


async def clear(session: Session, argument: str) -> None:
    session.terminal.clear()


def show_system_prompt(session: Session) -> None:
    if session.transcript.system_prompt:
        session.terminal.note(f"System prompt: {session.transcript.system_prompt}")


COMMANDS = (
    Command("new", "[TITLE]", "start a new conversation", new),
    Command("history", "[N]", "show the conversation, or its last N turns", history),
    Command(
        "follow", "", "show what other clients have asked here, also while the answer arrives", follow_others
    ),
    Command("title", "TEXT", "give this conversation a title", title, aliases=("rename",)),
    Command("clear", "", "clear the screen; the conversation stays", clear),
)
