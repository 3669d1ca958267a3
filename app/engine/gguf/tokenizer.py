"""Builds a tokenizer from the vocabulary, merges and special tokens in a GGUF file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from app.core.errors import ModelCorrupt, ModelUnsupported
from app.engine.gguf.file import GGUFFile
from app.engine.gguf.header import corrupt
from app.engine.gguf.pre_tokenizers import RULES
from app.engine.gguf.tensor_names import EMBEDDING
from app.engine.loading.folder_check import library_errors_as
from app.engine.loading.limits.tokenizer_check import MOST_TOKENS
from app.engine.tokenization.panics import panics_as_errors

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_CONTROL, _USER_DEFINED = 3, 4  # types of tokens
_SPACE = "▁"  # stands for a space in sentencepiece's vocabularies
_LONGEST_TOKEN = 4_096  # characters
_LONGEST_MERGED = 256  # characters of a token whose merges are derived
_MOST_CHARACTERS = 16_000_000  # of all tokens; Gemma's have 2 million
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
# Tokens that end a reply, whichever of them the file names as its end of text.
_ENDINGS = frozenset(
    ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<turn|>")
    + ("<|endoftext|>", "<|end_of_text|>")
)


@dataclass(frozen=True, slots=True)
class GGUFVocabulary:
    """The tokens of a file, by their ids."""

    tokens: Sequence[str]
    scores: Sequence[float]
    types: Sequence[float]
    merges: Sequence[str]

    @classmethod
    def of(cls, file: GGUFFile) -> "GGUFVocabulary":
        """Returns the file's vocabulary. Raises ModelCorrupt if it is empty or makes no sense."""
        tokens = file.texts(f"{_PREFIX}tokens")
        scores, types = file.numbers(f"{_PREFIX}scores"), file.numbers(f"{_PREFIX}token_type")
        if file.architecture == "gemma3":  # Ollama lists tokens of images, too, which have no embedding
            rows = file.tensors[EMBEDDING].shape[0]
            tokens, scores, types = tokens[:rows], scores[:rows], types[:rows]
        if not tokens or any(len(values) not in (0, len(tokens)) for values in (scores, types)):
            raise corrupt("its vocabulary is empty or incomplete")
        merges = file.texts(f"{_PREFIX}merges")
        if len(tokens) > MOST_TOKENS or len(merges) > 2 * MOST_TOKENS:
            raise corrupt(f"its vocabulary has more than {MOST_TOKENS:,} tokens, or too many merges")
        if max(map(len, tokens)) > _LONGEST_TOKEN or len(set(tokens)) < len(tokens):
            raise corrupt("its vocabulary has a token twice, or one that is too long")
        if sum(map(len, tokens)) > _MOST_CHARACTERS:
            raise corrupt(f"its tokens have more than {_MOST_CHARACTERS:,} characters")
        return cls(tokens, scores, types, merges)

    @property
    def ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    def of_type(self, wanted: int) -> list[str]:
        return [token for token, kind in zip(self.tokens, self.types, strict=False) if kind == wanted]

    def pairs(self) -> list[tuple[str, str]]:
        """Returns the merges that the file lists. Raises ModelCorrupt if one is not a pair."""
        pairs = [merge.split(" ") for merge in self.merges]
        if any(len(pair) != 2 for pair in pairs):
            raise corrupt("one of its merges is not a pair")
        return [(first, second) for first, second in pairs]


def build_tokenizer(file: GGUFFile) -> PreTrainedTokenizerFast:
    """Returns the tokenizer, with the file's chat template.

    Raises:
        ModelCorrupt: the vocabulary cannot be used.
        ModelUnsupported: it is of a kind that the engine does not know.
    """
    vocabulary = GGUFVocabulary.of(file)
    kind = file.text(f"{_PREFIX}model")
    special = _special_tokens(file, vocabulary)
    with library_errors_as(_describe), panics_as_errors():
        tokenizer = _backend(kind, file, vocabulary, special)
        _add_special_tokens(tokenizer, vocabulary)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special
    )
    if isinstance(template := file.metadata.get(_TEMPLATE), str):
        wrapped.chat_template = template
    return wrapped


def _describe(error: Exception) -> ModelCorrupt:
    if isinstance(error, KeyError):
        return corrupt("a special token is missing")
    return corrupt(f"its vocabulary cannot be used: {error}")


def ending_ids(file: GGUFFile) -> list[int]:
    """Returns the ids of the tokens that end a reply. Raises ModelCorrupt if one is not in the vocabulary."""
    tokens = file.texts(f"{_PREFIX}tokens")
    named = [f"{_PREFIX}{name}_token_id" for name in ("eos", "eot", "eom")]
    ids = {file.whole(key, least=0, most=len(tokens) - 1) for key in named if key in file.metadata}
    return sorted(ids | {index for index, token in enumerate(tokens) if token in _ENDINGS})


def _special_tokens(file: GGUFFile, vocabulary: GGUFVocabulary) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, key in _SPECIAL.items():
        if (full := f"{_PREFIX}{key}_token_id") in file.metadata:
            found[name] = vocabulary.tokens[file.whole(full, least=0, most=len(vocabulary.tokens) - 1)]
    return found


def _backend(kind: str, file: GGUFFile, vocabulary: GGUFVocabulary, special: dict[str, str]) -> Tokenizer:
    if kind == "gpt2":
        rule_name = file.text(f"{_PREFIX}pre", "default")
        tokenizer, adds_bos = _byte_level(vocabulary, rule_name)
    elif kind in ("llama", "gemma4"):
        has_prefix = bool(file.metadata.get(f"{_PREFIX}add_space_prefix", True))
        is_gemma = file.architecture.startswith("gemma")
        tokenizer, adds_bos = _sentencepiece(vocabulary, special, has_prefix, is_gemma), True
    else:
        raise ModelUnsupported(f"GGUF files with a vocabulary of the kind {kind[:40]!r} are not supported")
    if file.metadata.get(f"{_PREFIX}add_bos_token", adds_bos) and "bos_token" in special:
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B:1"], special_tokens=[(bos, vocabulary.ids[bos])]
        )
    return tokenizer


def _byte_level(vocabulary: GGUFVocabulary, rule_name: str) -> tuple[Tokenizer, bool]:
    rule = RULES.get(rule_name)
    if rule is None:
        raise ModelUnsupported(f"GGUF files with the pre-tokenizer {rule_name[:40]!r} are not supported")
    tokenizer = Tokenizer(models.BPE(vocabulary.ids, vocabulary.pairs(), ignore_merges=rule.ignores_merges))
    if rule.is_normalised:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, rule.adds_bos


def _sentencepiece(
    vocabulary: GGUFVocabulary, special: dict[str, str], has_prefix: bool, is_gemma: bool
) -> Tokenizer:
    ids = vocabulary.ids
    if is_gemma:  # its runs of spaces are stored as spaces
        ids = {
            _SPACE * len(token) if token.isspace() and " " in token else token: i for token, i in ids.items()
        }
    if len(ids) < len(vocabulary.tokens):
        raise corrupt("its vocabulary has a token twice")
    # Gemma's merges follow the order of the tokens, those of other vocabularies the scores.
    ranks = [-float(i) for i in range(len(ids))] if is_gemma else list(vocabulary.scores)
    pairs = vocabulary.pairs() or _derived_pairs(ids, ranks)
    tokenizer = Tokenizer(
        models.BPE(ids, pairs, unk_token=special.get("unk_token"), fuse_unk=True, byte_fallback=True)
    )
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if has_prefix else spaces
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if has_prefix else steps)
    return tokenizer


def _derived_pairs(ids: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Returns the merges that a vocabulary without merges implies, the token with the best score first."""
    if len(scores) != len(ids):
        raise corrupt("its vocabulary has neither merges nor scores")
    ranked = sorted(ids, key=lambda token: (-scores[ids[token]], len(token)))
    return [pair for token in ranked for pair in _splits(token, ids)]


def _splits(token: str, ids: dict[str, int]) -> Iterator[tuple[str, str]]:
    if len(token) > _LONGEST_MERGED:
        return
    for cut in range(1, len(token)):
        if token[:cut] in ids and token[cut:] in ids:
            yield token[:cut], token[cut:]


def _add_special_tokens(tokenizer: Tokenizer, vocabulary: GGUFVocabulary) -> None:
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in vocabulary.of_type(_CONTROL)]
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=False) for token in vocabulary.of_type(_USER_DEFINED)]
    )
    if tokenizer.get_vocab_size() > len(vocabulary.tokens):
        raise corrupt("a special token is not in its vocabulary")
