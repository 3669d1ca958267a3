"""Finds the kind of a remote engine and the model's context window, by asking the engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from app.core.catalogue import RemoteEngine
from app.core.deadline import Deadline
from app.core.errors import DomainError, ModelLoadFailed
from app.engine.remote.connection import UpstreamConnection
from app.engine.remote.kinds import GENERIC, LLAMA_SERVER, OLLAMA, TGI, TRANSFORMERS, EngineKind, kind_of

_Document = Mapping[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True)
class FoundEngine:
    """The kind of a remote engine, and the number of tokens in its window, if it says so."""

    kind: EngineKind
    context_length: int | None


async def find_engine(
    connection: UpstreamConnection, engine: RemoteEngine, deadline: Deadline, name: str
) -> FoundEngine:
    """Asks the engine for its models, and for what only its kind answers.

    Raises:
        ModelLoadFailed: it does not have the model.
        ModelUnavailable: it cannot be asked.
    """
    try:
        listed = _by_name(await connection.get("models", deadline))
    except DomainError:  # `transformers serve` fails here without the Hub's cache
        if not await _is_transformers(connection, deadline):
            raise
        return FoundEngine(TRANSFORMERS, None)
    card = listed.get(engine.model) or listed.get(f"{engine.model}:latest")  # Ollama's own shorthand
    owner = None if card is None else card.get("owned_by")
    found = await _found(connection, engine.model, card or {}, owner, deadline)
    if card is None and found.kind.lists_models:
        raise ModelLoadFailed(
            f"The remote engine of {name} has no model {engine.model!r}.",
            hint=f"It has: {', '.join(sorted(listed)[:20]) or 'none'}.",
        )
    return found


def _by_name(document: Any) -> dict[str, _Document]:  # Any: JSON
    """Returns the entries of a list of models by their names and aliases."""
    described = [card for card in _list(_object(document).get("data")) if isinstance(card, dict)]
    return {str(name): card for card in described for name in (card.get("id"), *_list(card.get("aliases")))}


async def _found(
    connection: UpstreamConnection, model: str, card: _Document, owner: str | None, deadline: Deadline
) -> FoundEngine:
    kind = kind_of(owner)
    length = card.get("max_model_len") or _object(card.get("meta")).get("n_ctx")
    if kind is LLAMA_SERVER:
        props = await _answer(connection, f"/props?model={quote(model, safe='')}", deadline)
        kind = _with_template(kind, props)
    elif kind is None and "version" in await _answer(connection, "/api/version", deadline):
        kind = OLLAMA  # whose owners are those of the models' names
    elif kind is None and "max_total_tokens" in (info := await _answer(connection, "/info", deadline)):
        kind, length = TGI, info["max_total_tokens"]
    elif kind is None and await _is_transformers(connection, deadline):
        kind = TRANSFORMERS
    has_length = type(length) is int and length > 0
    return FoundEngine(kind or GENERIC, length if has_length else None)


def _with_template(kind: EngineKind, props: _Document) -> EngineKind:
    """Returns the kind without the features that the model's chat template lacks and would ignore."""
    template, can = props.get("chat_template"), _object(props.get("chat_template_caps"))
    thinks = not isinstance(template, str) or "think" in template.lower()
    return replace(
        kind, thinking=kind.thinking if thinks else None, has_tools=can.get("supports_tools") is not False
    )


async def _is_transformers(connection: UpstreamConnection, deadline: Deadline) -> bool:
    paths = (await _answer(connection, "/openapi.json", deadline)).get("paths")
    return {"/load_model", "/v1/responses"} <= _object(paths).keys()


async def _answer(connection: UpstreamConnection, path: str, deadline: Deadline) -> _Document:
    """Returns the JSON object at the path, an empty one if there is none."""
    try:
        return _object(await connection.get(path, deadline))
    except DomainError:
        return {}


def _list(value: Any) -> Sequence[Any]:  # Any: JSON
    return value if isinstance(value, list) else ()


def _object(value: Any) -> _Document:  # Any: JSON
    return value if isinstance(value, dict) else {}
