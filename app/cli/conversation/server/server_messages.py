"""Translates messages between the server's form and the client's tree."""

from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from app.cli.errors import SAME_VERSION, NotOurServer
from app.cli.transcripts.message_tree import ConversationTree, TreeMessage, plain_parts, rebuilt
from app.cli.transcripts.transcript_file import Transcript
from app.models.schemas import ConversationMessage, ConversationResponse, TranscriptMessage


def from_server(held: ConversationResponse) -> ConversationTree:
    """Returns the server's messages as a tree. An older server has one branch, and names no parents.

    Raises:
        NotOurServer: a message is too long, or has no usable id.
    """
    try:
        messages = [_from_server(message) for message in held.messages]
    except ValidationError as error:
        problem = f"A message of the server is invalid ({error.errors()[0]['msg']})."
        raise NotOurServer(problem, SAME_VERSION) from None
    if held.head_id is None and all(message.parent_id is None for message in messages):
        return ConversationTree.linear(message for message in messages if message.role != "system")
    return _without_system(messages, held.head_id)


def _without_system(messages: Iterable[TreeMessage], head_id: str | None) -> ConversationTree:
    """Returns the tree without system messages, whose children follow the message before them."""
    found, instead = list[TreeMessage](), dict[str | None, str | None]()
    for message in messages:
        parent_id = instead.get(message.parent_id, message.parent_id)
        if message.role == "system":
            instead[message.id] = parent_id
        else:
            found.append(message.model_copy(update={"parent_id": parent_id}))
    return rebuilt(found, instead.get(head_id, head_id))


def _from_server(message: ConversationMessage) -> TreeMessage:
    fields = {name: getattr(message, name) for name in TreeMessage.model_fields}
    return TreeMessage(**fields | {"parts": plain_parts(message.parts)})


def adopted(tree: ConversationTree, theirs: ConversationTree) -> ConversationTree:
    """Returns the tree with the server's messages and head. Messages that only this client has stay."""
    return tree.renamed(same_messages(tree.branch, theirs.branch)).merged(theirs)


def take_over(transcript: Transcript, held: ConversationResponse, theirs: ConversationTree) -> None:
    """Puts what the server holds, whose messages are `theirs`, into the transcript."""
    if not transcript.tree.messages:  # this machine has no transcript of it
        transcript.system_prompt = held.system_prompt
    transcript.tree = adopted(transcript.tree, theirs)
    transcript.title = transcript.title or held.title
    if (answer := transcript.tree.last_answer) is not None:
        transcript.model_name = answer.model_name


def same_messages(ours: Sequence[TreeMessage], theirs: Sequence[TreeMessage]) -> dict[str, str]:
    """Returns the server's ids of the messages of a branch, by ours, up to the first one that differs.

    Of an interrupted answer, the server may have more text than arrived.
    """
    ids: dict[str, str] = {}
    for our, their in zip(ours, theirs, strict=False):
        if our.role != their.role or not their.content.startswith(our.content.rstrip()):
            break
        if our.id != their.id:
            ids[our.id] = their.id
    return ids


def to_upload(messages: Iterable[TreeMessage]) -> list[TranscriptMessage]:
    """Returns the messages as a transcript that the server accepts: user and assistant take turns.

    Results of tools are left out, messages of the same role are joined, and so is a question without an
    answer at the end.
    """
    found: list[TranscriptMessage] = []
    for message in messages:
        if message.role not in ("user", "assistant") or not (found or message.role == "user"):
            continue
        if found and found[-1].role == message.role:
            joined = f"{found[-1].content}\n\n{message.content}"
            found[-1] = found[-1].model_copy(update={"content": joined})
        elif message.role == "assistant" or message.content.strip():
            found.append(_to_transcript(message))
    return found[:-1] if found and found[-1].role == "user" else found


def _to_transcript(message: TreeMessage) -> TranscriptMessage:
    return TranscriptMessage(**{name: getattr(message, name) for name in TranscriptMessage.model_fields})


def contains_last_answer(theirs: ConversationTree, shown: list[TreeMessage]) -> bool:
    """Returns whether the server's messages include the answer that was shown last.

    Until the server has ended an interrupted answer, they may end with an older one.
    """
    last, held = shown[-1], theirs.branch
    if not last.is_local:
        return last.id in theirs.messages
    return len(held) >= len(shown) and held[-1].content.startswith(last.content.rstrip())
