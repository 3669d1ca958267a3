"""Chooses a branch of a conversation on the server, or copies one into a new conversation.

An older server can do neither, and another may have lost the conversation. Both get an upload instead.
"""

from app.cli.conversation.server.running_turns import patiently
from app.cli.conversation.server.server_copy import LOST, NO_ROUTE, ServerCopy
from app.cli.errors import Refused
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.transcript_file import Transcript
from app.models.schemas import ForkConversationRequest


async def select(copy: ServerCopy, message_id: str) -> None:
    """Makes the branch of the message the current one, up to the newest message below it."""
    transcript = copy.transcript
    tree = transcript.tree
    try:
        selected = await patiently(lambda: copy.client.select(copy.id, message_id))
    except Refused as error:
        if error.code not in (*LOST, *NO_ROUTE):
            raise
        transcript.tree = tree.with_head(tree.newest_leaf(message_id))
        await copy.upload()
        return
    if selected.head_id in tree.messages:
        transcript.tree = tree.with_head(selected.head_id)
    else:
        await copy.adopt()


async def fork(copy: ServerCopy) -> ServerCopy:
    """Copies the current branch into a new conversation. Returns the copy of that one."""
    old = copy.transcript
    tree = ConversationTree.linear(old.messages)
    new = ServerCopy(
        copy.client, copy.terminal, Transcript(old.system_prompt, old.title, old.model_name, tree)
    )
    request = ForkConversationRequest(**({"message_id": tree.head_id} if tree.head_id else {}))
    try:
        forked = await patiently(lambda: copy.client.fork(copy.id, request))
    except Refused as error:
        if error.code not in (*LOST, *NO_ROUTE):
            raise
        await new.upload()
    else:
        new.transcript.conversation_id = forked.conversation_id
        await new.learn_ids()
    return new
