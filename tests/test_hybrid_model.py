"""Hybrid models, served with their own caches, hold a conversation through the client."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoConfig, PreTrainedTokenizerFast

from tests.cli.client_process import piped
from tests.engine.own_cache.models import ARCHITECTURES
from tests.engine.tiny import SPECIAL, TEMPLATE, new_model, wrap
from tests.server import RunningServer, running_server

MODELS = '[models.hybrid]\nsource = "./hybrid"\n[models.hybrid.sampling]\nmax_tokens = 12\ntemperature = 0\n'


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, so that any reply has the tokens again from which it was made."""
    characters = [*SPECIAL, *(character for character in string.printable if character.isprintable())]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(characters)}, []))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.decoder = decoders.Fuse()
    return wrap(tokenizer, bos_token="<|bos|>", eos_token="<|end|>", chat_template=TEMPLATE)


def save_hybrid(folder: Path, model_type: str) -> None:
    tokenizer = letter_tokenizer()
    options = {**ARCHITECTURES[model_type], "max_position_embeddings": 2048, "tie_word_embeddings": False}
    options |= {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
    config = AutoConfig.for_model(model_type, **options)
    model = new_model(config)
    with torch.no_grad():
        model.get_parameter("lm_head.weight")[: len(SPECIAL)] = 0  # greedy replies have no special token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def turn(server: RunningServer, message: str, *arguments: str) -> Any:  # Any: a JSON document
    done = piped(message, "--url", server.url, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("model_type", "layers"), [("qwen3_5_text", "linear_attention"), ("lfm2", "conv")])
def test_three_turns_of_a_hybrid_model_reuse_the_conversation(
    tmp_path: Path, shared_fork_server: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, layers: str
) -> None:
    save_hybrid(tmp_path / "hybrid", model_type)
    (tmp_path / "models.toml").write_text(MODELS)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    settings = {
        "LLM_MODEL_NAME": "hybrid",
        "LLM_MODELS_FILE": "models.toml",
        "LLM_DTYPE": "float32",
        "LLM_THREADS": "1",
        "LLM_FORK_SERVER": str(shared_fork_server),
    }
    with running_server(tmp_path, **settings) as server:
        server.wait_until_ready()
        info = server.get("/api/v1/model-info")
        assert info["cache"] == "own" and layers in info["cache_reason"]
        first = turn(server, "Tell me of the cat that sat on the mat, and of the dog beside it.")
        second = turn(server, "And then?", "--resume")
        third = turn(server, "And after that?", "--resume")
    read = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert first["usage"]["cached_tokens"] == 0
    assert read - 2 <= second["usage"]["cached_tokens"] < second["usage"]["prompt_tokens"]
    assert third["usage"]["cached_tokens"] > second["usage"]["prompt_tokens"] - 2
