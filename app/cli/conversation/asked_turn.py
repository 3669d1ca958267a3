"""A turn that the client asks for: the request, and the place of the answer in the tree."""

from dataclasses import dataclass

from app.cli.conversation.answer import Answer
from app.cli.transcripts.message_tree import ConversationTree, TreeMessage
from app.models.schemas import ChatRequest, ContinueRequest, EditRequest, RegenerateRequest

AnswerRequest = ChatRequest | RegenerateRequest | ContinueRequest | EditRequest


@dataclass(frozen=True, slots=True)
class AskedTurn:
    """`replaced` is the number of messages at the end of the branch that the new ones stand beside: 0 for a
    new message, 1 for another answer. `prefix` is the text that the answer extends."""

    request: AnswerRequest
    replaced: int = 0
    prefix: str = ""

    @property
    def question(self) -> str | None:
        """The text of the new message; None if an old one is answered."""
        return self.request.message if isinstance(self.request, ChatRequest | EditRequest) else None

    def replaced_id(self, tree: ConversationTree) -> str | None:
        """Returns the id of the first of the replaced messages."""
        return tree.branch[-self.replaced].id if self.replaced else None

    def parent_id(self, tree: ConversationTree) -> str | None:
        """Returns the id of the message above the new ones; None if they begin the branch."""
        kept = tree.branch[: len(tree.branch) - self.replaced]
        return kept[-1].id if kept else None

    def answered(self, tree: ConversationTree, answer: Answer) -> ConversationTree:
        """Returns the tree with the question, if it is new, and the answer."""
        parent_id = self.parent_id(tree)
        if self.question is not None:
            question = TreeMessage(id=answer.parent_id, role="user", content=self.question)
            tree = tree.added_below(parent_id, question)
            parent_id = tree.head_id
        return tree.added_below(parent_id, answer.message)
