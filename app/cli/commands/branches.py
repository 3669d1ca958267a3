"""Commands about the branches of a conversation: /versions, /version, /branch and /fork."""

from collections.abc import Iterable, Sequence

from app.cli.commands.command import Choice, Command, number_of, unexpected
from app.cli.commands.conversation import history
from app.cli.conversation.session import Session
from app.cli.errors import NoAnswerYet, UsageError
from app.cli.output.formatting import count, first_words, format_age
from app.cli.transcripts.branch_lines import BranchLine, branch_lines
from app.cli.transcripts.message_tree import ConversationTree, TreeMessage

MAX_VERSIONS = 20  # that /versions lists
_STEPS = {"next": 1, "previous": -1}


async def list_versions(session: Session, argument: str) -> None:
    tree = (await session.settled_transcript()).tree
    answer, versions = _versions(tree)
    here = versions.index(answer)
    first = max(0, min(here - MAX_VERSIONS // 2, len(versions) - MAX_VERSIONS))
    shown = versions[first : first + MAX_VERSIONS]
    rows = [
        _version_row(number, version, version is answer) for number, version in enumerate(shown, first + 1)
    ]
    taken = sum(max(len(row[column]) for row in rows) + 2 for column in range(3))
    room = max(10, session.terminal.console.width - taken)
    cropped = [(*row[:3], first_words(row[3], room)) for row in rows]
    session.terminal.show_grid(cropped, ["bold" if version is answer else "" for version in shown])
    if len(shown) < len(versions):
        session.terminal.note(f"{len(versions):,} versions in all.")
    session.terminal.note(_how_to_choose(session, len(versions)))


def _how_to_choose(session: Session, versions: int) -> str:
    if versions == 1:
        return "/retry adds another version."
    keys = "Alt-← and Alt-→" if session.terminal.style.symbols else "Alt-Left and Alt-Right"
    return f"/version N chooses one, and so do {keys} at an empty prompt."


def _version_row(number: int, version: TreeMessage, is_current: bool) -> tuple[str, str, str, str]:
    age = "" if version.timestamp is None else format_age(version.timestamp.timestamp())
    mark = "(interrupted) " if version.finish_reason == "interrupted" else ""
    return f"{'*' if is_current else ' '} {number}", version.model_name or "", age, mark + version.content


async def choose_version(session: Session, argument: str) -> None:
    tree = (await session.settled_transcript()).tree
    answer, versions = _versions(tree)
    here = versions.index(answer) + 1
    number = here + _STEPS[argument] if argument in _STEPS else number_of(argument)
    if number is None:
        raise unexpected("version", argument, "a number, next or previous")
    if not 1 <= number <= len(versions):
        here_of_all = f"this is version {here} of {len(versions)}"
        wanted = f"{argument} version" if argument in _STEPS else f"version {number}"
        raise UsageError(f"There is no {wanted}; {here_of_all}.", "/versions lists them; /retry adds one.")
    chosen = versions[number - 1]
    if number != here:
        await session.select(chosen.id)
    await _show_version(session, chosen, f"{number} of {len(versions)}")
    await _show_rest(session, chosen)


async def _show_version(session: Session, chosen: TreeMessage, place: str) -> None:
    terminal = session.terminal
    await terminal.replace_answer(f"Assistant ({place}):", chosen.thinking, chosen.content)
    age = "" if chosen.timestamp is None else format_age(chosen.timestamp.timestamp())
    cut = "interrupted" if chosen.finish_reason == "interrupted" else ""
    tokens = "" if chosen.usage is None else count(chosen.usage.completion_tokens, "token")
    facts = [fact for fact in (f"version {place}", chosen.model_name, tokens, age, cut) if fact]
    terminal.note((" · " if terminal.style.symbols else ", ").join(facts))


async def _show_rest(session: Session, chosen: TreeMessage) -> None:
    """Shows the last turn of the branch if it goes on after the chosen answer."""
    branch = session.transcript.messages
    later = [at for at, message in enumerate(branch) if message.id == chosen.id and at < len(branch) - 1]
    if later:
        turns = sum(message.role == "user" for message in branch[later[0] + 1 :])
        session.terminal.note(f"This branch goes on for {count(turns, 'turn')}. The last one:")
        await history(session, "1")


async def branch(session: Session, argument: str) -> None:
    transcript = await session.settled_transcript()
    if not transcript.tree.messages:
        raise NoAnswerYet
    if not argument:
        return _show_tree(session, transcript.tree)
    message = _find(transcript.tree, argument)
    await session.select(message.id)
    turns = count(session.transcript.turns, "turn")
    session.terminal.say(
        f"Now on the branch of message {argument}, with {turns}. Its last turn:", symbol="🌿"
    )
    await history(session, "1")


def _find(tree: ConversationTree, argument: str) -> TreeMessage:
    messages = list(tree.messages.values())
    number = number_of(argument)
    if number is not None and number <= len(messages):
        return messages[number - 1]
    if argument in tree.messages:
        return tree.messages[argument]
    raise UsageError(
        f"This conversation has no message {argument!r}.", "/branch shows the messages with their numbers."
    )


def _show_tree(session: Session, tree: ConversationTree) -> None:
    terminal = session.terminal
    digits = len(str(len(tree.messages)))
    here = " ← here" if terminal.style.symbols else " <- here"
    width = terminal.console.width - digits - 3 - len(here)
    for line in branch_lines(tree, terminal.style.symbols, width):
        style = "bold" if line.is_head else "" if line.is_current else "dim"
        terminal.say(_drawn(line, digits, here), style, whole=True)
    if tree.head_id is None:
        terminal.note("You are at the beginning, before the first message.")
    terminal.note("* marks the current branch. /branch N goes to another one.")


def _drawn(line: BranchLine, digits: int, here: str) -> str:
    number = "" if line.number is None else str(line.number)
    mark = "*" if line.is_current else " "
    return f"{mark} {number:>{digits}} {line.stem}{line.text}{here if line.is_head else ''}"


async def fork(session: Session, argument: str) -> None:
    await session.fork()
    turns = count(session.transcript.turns, "turn")
    session.terminal.say(f"Copied this branch, with {turns}, into a new conversation.", symbol="🌿")
    session.terminal.note("You continue the copy. /sessions lists the other one.")


def _versions(tree: ConversationTree) -> tuple[TreeMessage, list[TreeMessage]]:
    """Returns the last answer of the current branch, and all its versions.

    Raises:
        NoAnswerYet: there is none.
    """
    if tree.last_answer is None:
        raise NoAnswerYet
    return tree.last_answer, tree.siblings(tree.last_answer)


def _version_choices(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    tree = session.transcript.tree
    if typed or tree.last_answer is None:
        return ()
    versions = tree.siblings(tree.last_answer)[:MAX_VERSIONS]
    return [(str(number), first_words(v.content, 40)) for number, v in enumerate(versions, 1)]


def _branch_choices(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    """Offers the ends of the branches."""
    tree = session.transcript.tree
    if typed:
        return ()
    ends = [(n, m) for n, m in enumerate(tree.messages.values(), 1) if not tree.children(m.id)]
    return [(str(number), first_words(message.content, 40)) for number, message in ends[-MAX_VERSIONS:]]


COMMANDS = (
    Command("versions", "", "list the versions of the last answer", list_versions),
    Command(
        "version",
        "N|next|previous",
        "choose a version of the last answer",
        choose_version,
        _version_choices,
        more="Alt-Left and Alt-Right at an empty prompt choose the previous and the next one.",
    ),
    Command(
        "branch",
        "[N|ID]",
        "show the branches of this conversation, or go to one",
        branch,
        _branch_choices,
        more="Each /retry and /edit begins a branch. /branch N goes to the end of the branch\n"
        "with that message, also after /undo.",
    ),
    Command("fork", "", "copy this branch into a new conversation and continue there", fork),
)
