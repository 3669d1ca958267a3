"""Commands about the current conversation: /new, /history, /follow, /title and /clear."""

import contextlib

from app.cli.commands.command import Command, number_of, unexpected
from app.cli.conversation.following import catch_up, follow, is_asked_elsewhere
from app.cli.conversation.session import Session
from app.cli.errors import ClientError, UsageError
from app.cli.transcripts.message_tree import TreeMessage
from app.cli.transcripts.transcript_file import Transcript

FOLLOW = "/follow"  # the line that the prompt runs by itself


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
    new = await catch_up(session)
    if new:
        session.terminal.note("Another client has asked here:")
    for message in new:
        await show_message(session, message)
    if not await show_running_turn(session) and not new:
        session.terminal.note("No other client has asked here since.")


async def send(session: Session, text: str) -> None:
    """Sends a message. What other clients have asked meanwhile is shown first, because the message follows
    it."""
    session.draft = text
    if await is_asked_elsewhere(session):
        with contextlib.suppress(ClientError):  # sending reports the problem
            await follow_others(session, "")
        session.terminal.note("Your message follows.")
    await session.send(text)


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
