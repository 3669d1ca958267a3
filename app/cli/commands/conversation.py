"""Commands about the current conversation: /new, /history, /rename and /clear."""

from app.cli.commands.command import Command, number_of, unexpected
from app.cli.conversation.session import Session
from app.cli.conversation.transcript_file import Transcript
from app.cli.errors import UsageError


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
    first = 0 if turns is None else -2 * turns
    for position, message in enumerate(transcript.messages[first:]):
        if position:
            session.terminal.say("")
        if message.role == "user":
            session.terminal.say("You:", "bold cyan")
        else:
            suffix = " (interrupted)" if message.finish_reason == "interrupted" else ""
            session.terminal.heading(f"Assistant{suffix}:")
        async with session.terminal.answer() as view:
            view.feed(message.content)


async def rename(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("/rename needs a title.", "/rename TITLE gives this conversation a title.")
    session.transcript.title = argument
    session.autosave.write(session.transcript)
    session.terminal.say(f"This conversation is now called {argument}.", symbol="📝")


async def clear(session: Session, argument: str) -> None:
    session.terminal.clear()


def show_system_prompt(session: Session) -> None:
    if session.transcript.system_prompt:
        session.terminal.note(f"System prompt: {session.transcript.system_prompt}")


COMMANDS = (
    Command("new", "[TITLE]", "start a new conversation", new),
    Command("history", "[N]", "show the conversation, or its last N turns", history),
    Command("rename", "TITLE", "give this conversation a title", rename),
    Command("clear", "", "clear the screen; the conversation stays", clear),
)
