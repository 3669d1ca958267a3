"""Turns submitted requests into requests that can run, in a thread beside the step loop."""

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import partial

from llguidance import LLMatcher

from app.core.errors import DomainError, InternalError, InvalidRequest
from app.engine.grammars.compiler import GrammarCompiler
from app.engine.grammars.rule import GrammarRule
from app.engine.ipc.messages import (
    Accepted,
    CountTokens,
    Detokenize,
    DetokenizedText,
    Failed,
    Submit,
    TokenAnswer,
    TokenCount,
    Tokenize,
    TokenLogprob,
    TokenQuestion,
    Tokens,
)
from app.engine.loading.load import LoadedModel
from app.engine.memory import is_exhaustion
from app.engine.replies.detokenizer import ReplyText
from app.engine.replies.parts import THINK_OPEN, PartSplitter
from app.engine.request import Request
from app.engine.sampling.logprobs import RowLogprobs, check_prompt_logprobs
from app.engine.sampling.rules import LogitRule, SuppressedTokens, rules_for
from app.engine.sampling.sampler import RequestSampler, check_sampling
from app.engine.sampling.thinking import ThinkingBudget, ThinkingPhase
from app.engine.sandbox.grammar_sandbox import GrammarSandbox
from app.engine.sandbox.template_sandbox import TemplateSandbox
from app.engine.scheduling.sequence import TokenSequence
from app.engine.tokenization.bounded_calls import CALL_LIMIT_S, BoundedCalls
from app.engine.tokenization.context_window import Prompt
from app.engine.tokenization.prompt import PromptBuilder
from app.engine.tokenization.vocabulary import Vocabulary
from app.engine.tools.parser import ToolCallParser
from app.engine.tools.reply_parts import ReplyParts

_log = logging.getLogger(__name__)

_TOO_LARGE = "preparing the request takes more memory than the model may use"


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The format of a model's chats, beyond its tokenizer."""

    template: str | None = None  # Jinja; used if the tokenizer has none
    stop: tuple[str, ...] = ()  # stop strings that belong to the format


@dataclass(frozen=True, slots=True)
class Admitted:
    request: Request
    accepted: Accepted


AdmissionOutcome = Admitted | Failed | TokenAnswer


class Admission:
    """Admits requests to one model with a window of `context_length` tokens."""

    def __init__(
        self,
        loaded: LoadedModel,
        context_length: int,
        chat_format: ChatFormat,
        sandbox: TemplateSandbox,
        grammar_sandbox: GrammarSandbox,
        tokenizer_s: float = CALL_LIMIT_S,
    ) -> None:
        """`tokenizer_s` is how long the tokenizer may take for a short text."""
        self._calls = BoundedCalls(tokenizer_s)
        self._vocabulary = Vocabulary(loaded)
        self._prompts = PromptBuilder(
            loaded.tokenizer,
            context_length=context_length,
            chat_template=chat_format.template,
            sandbox=sandbox,
            calls=self._calls,
        )
        tokens = self._vocabulary.token_bytes
        special_ids = tokens.silent_ids | self._prompts.toolbox.mark_ids
        self._grammars = GrammarCompiler(
            loaded.tokenizer, tokens, loaded.stop_ids, special_ids, grammar_sandbox, self._calls
        )
        self._stop = chat_format.stop

    @property
    def lost_calls(self) -> int:
        """How many calls of the tokenizer go on though their requests have failed."""
        return self._calls.lost

    def compile(self, submit: Submit) -> LLMatcher | Failed | None:
        """Returns the matcher of the request's grammar, if it has one, or the reason why it cannot run.

        Another thread than that of `admit` may call it, so that slow grammars delay no other request.
        """
        begun = submit.messages[-1].content if submit.continue_final_message and submit.messages else ""
        try:
            toolbox = self._prompts.toolbox
            if (required := toolbox.grammar(submit)) is not None:
                return self._grammars.compile(required, begun, toolbox.marks, scope=submit.scope)
            if submit.grammar is None:
                return None
            return self._grammars.compile(submit.grammar, begun, scope=submit.scope)
        except DomainError as error:
            return to_failed(submit.request_id, error)
        except Exception:  # the root of the thread's task
            _log.exception("the grammar of request %s cannot be compiled", submit.request_id)
            return internal_failure(submit.request_id)

    def admit(self, submit: Submit, arrived: float, matcher: LLMatcher | None = None) -> Admitted | Failed:
        """Returns the request, ready for the scheduler, or the reason why it cannot run."""
        try:
            check_sampling(submit.sampling)
            self._vocabulary.check_named(submit.sampling)
            prompt = self._prompts.build(submit)
            if submit.prompt_logprobs:
                check_prompt_logprobs(len(prompt.ids), submit.sampling.top_logprobs)
            self._vocabulary.check(prompt.ids, are_given=isinstance(submit.prompt, tuple))
            return self._make_request(submit, prompt, arrived, matcher)
        except DomainError as error:
            return to_failed(submit.request_id, error)
        except Exception as error:  # the root of the thread's task: one request must not end the others
            _log.exception("request %s cannot be prepared", submit.request_id)
            if is_exhaustion(error):
                return Failed(submit.request_id, InvalidRequest.code, _TOO_LARGE, "Send a shorter prompt.")
            return internal_failure(submit.request_id)

    def answer(self, question: TokenQuestion) -> TokenAnswer | Failed:
        """Returns the answer to a question about tokens."""
        request_id = question.request_id
        try:
            match question:
                case Tokenize(text=text, adds_special_tokens=adds):
                    ids = self._prompts.tokenize(text, adds_special_tokens=adds)
                    return Tokens(request_id, tuple(ids), self._vocabulary.tokens(ids))
                case Detokenize(token_ids=token_ids, skips_special_tokens=skips):
                    text = self._calls.call(
                        partial(self._vocabulary.text, token_ids, skips_special=skips), len(token_ids)
                    )
                    return DetokenizedText(request_id, text)
                case CountTokens(submit=submit):
                    return TokenCount(request_id, self._prompts.count(submit))
        except DomainError as error:
            return to_failed(request_id, error)
        except Exception:  # the root of the thread's task
            _log.exception("question %s cannot be answered", request_id)
            return internal_failure(request_id)

    def keep_reply(self, prompt_ids: Sequence[int], reply_ids: Sequence[int], scope: str) -> None:
        """Let later prompts of the scope that contain the reply have its own ids."""
        try:
            self._prompts.keep_reply(prompt_ids, reply_ids, scope)
        except Exception:  # the root of the thread's task
            _log.exception("the tokens of a reply could not be kept")

    def describe(self, rows: Sequence[RowLogprobs]) -> list[TokenLogprob]:
        """Returns log-probabilities with the bytes of their tokens."""
        return [self._vocabulary.describe(row) for row in rows]

    def undescribed(self, token_id: int) -> TokenLogprob:
        """Returns the first token of a prompt, which has no probability."""
        return TokenLogprob(token_id, self._vocabulary.token_bytes.of(token_id), None)

    def _budget_rules(self, submit: Submit, prompt: Prompt) -> list[LogitRule]:
        """Returns the rule that ends the thinking; none if there is no budget, or no thinking.

        Raises:
            InvalidRequest: the model does not think, and the request does not say that this is fine.
        """
        budget = submit.thinking_budget
        if budget is None:
            return []
        if budget < 0:
            raise InvalidRequest("thinking_budget is out of range")
        if prompt.thinking != "none":
            phase = ThinkingPhase(prompt.thinking, self._vocabulary.token_bytes)
            return [ThinkingBudget(budget, self._prompts.thinking_end(), phase)]
        if submit.think is None and submit.wants_thinking:
            return []
        raise InvalidRequest("this model does not think aloud", hint="Leave thinking_budget out.")

    def _grammar_rule(self, matcher: LLMatcher | None, prompt: Prompt) -> GrammarRule | None:
        if matcher is None:
            return None
        tokens, tokenizer = self._vocabulary.token_bytes, self._grammars.tokenizer
        if prompt.thinking == "none" or prompt.has_closed_thinking:
            return GrammarRule(matcher, tokenizer, ThinkingPhase("none", tokens))
        phase = ThinkingPhase(prompt.thinking, tokens)
        opens = tokens.made_of(THINK_OPEN.encode())
        breaks = [*tokens.made_of(b"\n"), *tokens.made_of(b"\n\n")]
        return GrammarRule(matcher, tokenizer, phase, open_ids=opens, break_ids=breaks)

    def _make_request(
        self, submit: Submit, prompt: Prompt, arrived: float, matcher: LLMatcher | None
    ) -> Admitted:
        stop_ids, parser = self._vocabulary.stop_ids(submit.sampling), self._parser(submit)
        rules = self._rules(submit, prompt, stop_ids)
        request = Request(
            sequence=_sequence(submit, prompt),
            prompt_tokens=len(prompt.ids),
            max_tokens=prompt.max_tokens,
            stop_ids=stop_ids,
            sampler=RequestSampler(submit.sampling, rules, self._grammar_rule(matcher, prompt)),
            text=self._reply_text(submit, prompt, has_calls=parser is not None),
            parts=ReplyParts(PartSplitter(prompt.thinking), parser),
            arrived_at=arrived,
        )
        accepted = Accepted(
            submit.request_id, request.prompt_tokens, prompt.omitted_messages, request.max_tokens
        )
        return Admitted(request, accepted)

    def _parser(self, submit: Submit) -> ToolCallParser | None:
        """Returns the parser of the reply's tool calls; None if it can have none."""
        use = submit.tool_use
        if use is None or use.choice == "none" or submit.messages is None:
            return None
        return self._prompts.toolbox.parser(use)

    def _rules(self, submit: Submit, prompt: Prompt, stop_ids: Set[int]) -> list[LogitRule]:
        rules: list[LogitRule] = []
        if any(self._vocabulary.suppressed_ids):
            rules.append(SuppressedTokens(*self._vocabulary.suppressed_ids))
        rules += rules_for(submit.sampling, prompt.ids, stop_ids, lambda: self._vocabulary.token_bytes)
        return rules + self._budget_rules(submit, prompt)  # the last, so that none bans its tokens

    def _reply_text(self, submit: Submit, prompt: Prompt, *, has_calls: bool) -> ReplyText:
        continues_prompt = submit.continue_final_message or submit.prompt is not None
        return self._vocabulary.reply_text(
            submit.sampling.stop + (self._stop if submit.messages is not None else ()),
            joins=prompt.ids if continues_prompt else (),
            includes_stop=submit.sampling.include_stop_str_in_output,
            visible=self._prompts.toolbox.visible_ids if has_calls else frozenset(),
        )


def _sequence(submit: Submit, prompt: Prompt) -> TokenSequence:
    return TokenSequence(
        submit.request_id,
        prompt.ids,
        submit.scope,
        is_kept=submit.is_kept,
        needs_all_logits=submit.prompt_logprobs,
    )


def to_failed(request_id: str, error: DomainError) -> Failed:
    return Failed(request_id, error.code, error.message, error.hint)


def internal_failure(request_id: str) -> Failed:
    return Failed(request_id, InternalError.code, "the engine failed on this request", "The log says why.")
