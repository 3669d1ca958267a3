"""Training: the tokenizer, batches, steps, checkpoints and exports."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerFast

from app.builtin.training.batches import IGNORED, BatchMaker
from app.builtin.training.corpus.composition import conversation
from app.builtin.training.tokenizer import train_tokenizer
from app.builtin.training.trainer import Recipe, Trainer

SHAPES = ((4, 48, 1),)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(seed=1, conversations=100)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A process group with a single process and one thread, set up as `train` does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    torch.set_num_threads(threads)


def test_tokenizer_splits_digits_and_restores_any_text(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    text = "1234 café 漢字 🙂\n```python\n    x = 5\n```"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]


def test_batches_write_conversations_as_the_chat_template_does(tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(20):
        talk = conversation(random.Random(seed), 5)
        ids, _ = BatchMaker(tokenizer, SHAPES, seed=1).encode(talk)
        assert ids == tokenizer.apply_chat_template(talk.messages(), return_dict=False)


def test_batches_have_labels_for_replies_and_their_end_tokens_only(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    talk = conversation(random.Random(8), 3)
    ids, is_reply = BatchMaker(tokenizer, SHAPES, seed=1).encode(talk)
    replies = tokenizer.decode([token for token, wanted in zip(ids, is_reply, strict=True) if wanted])
    assert replies == "".join(f"{exchange.reply}<|end|>" for exchange in talk.exchanges)


def test_batch_parts_are_rows_of_the_whole_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    maker = BatchMaker(tokenizer, SHAPES, seed=1)
    whole, odd = maker.batch(5), maker.batch(5, part=1, parts=2)
    assert torch.equal(whole.ids[1::2], odd.ids)
    assert torch.equal(whole.labels[1::2], odd.labels)
    assert bool((whole.labels != IGNORED).any())


def test_rate_warms_up_holds_and_falls_to_zero() -> None:
    recipe = Recipe(steps=1000)
    assert recipe.rate(0) < recipe.rate(30) < recipe.rate(100) == recipe.rate(400) == 1
    assert 1 > recipe.rate(700) > recipe.rate(999) > recipe.rate(1000) == 0


def test_trainer_continues_from_its_checkpoint(
    tokenizer: PreTrainedTokenizerFast, process_group: None, tmp_path: Path
) -> None:
    first, second = (Trainer(Recipe(steps=4, shapes=SHAPES), tokenizer) for _ in range(2))
    first.advance()
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    assert first.advance() == second.advance()


def test_export_can_be_loaded(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    Trainer(Recipe(steps=4, shapes=SHAPES), tokenizer).export(tmp_path / "weights")
    names = {file.name for file in (tmp_path / "weights").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert [file.name for file in tmp_path.iterdir()] == ["weights"]


def test_second_stage_starts_from_exported_weights(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    first, second = (Trainer(Recipe(seed=seed, shapes=SHAPES), tokenizer) for seed in (1, 2))
    first.export(tmp_path / "weights")
    second.begin_with(tmp_path / "weights")
    wanted, begun = first.averaged_model().state_dict(), second.averaged_model().state_dict()
    assert all(torch.equal(wanted[name], begun[name]) for name in wanted)
