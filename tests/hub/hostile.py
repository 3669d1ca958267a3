"""A corpus of hostile repositories, each made from a sound tiny model, and a script that loads them all.

`hostile.py FOLDER` loads every folder within it as a worker does, in one process, and prints the outcomes
as JSON. It also runs under `python -O`, because no protection may be an assert.
"""

import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]
CANARY = "canary"  # a file beside the corpus that only a repository's code would create


class Evil:
    """Creates the canary when it is unpickled."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.canary, "w"))


def canary_of(folder: Path) -> str:
    return str(folder.parent.parent / CANARY)


def edit(name: str, **changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | changes))

    return damage


def code(name: str = "config.json", **changes: Any) -> Damage:
    """Puts code into the repository and names it."""

    def damage(folder: Path) -> None:
        edit(name, **changes)(folder)
        (folder / "evil.py").write_text(f"open({canary_of(folder)!r}, 'w')\nclass Evil: pass\n")

    return damage


def index(*names: Any, shape: Any = None) -> Damage:
    def damage(folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.rename(folder.parent / f"{folder.name}.outside.safetensors")
        body = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}} if shape is None else shape
        (folder / "model.safetensors.index.json").write_text(json.dumps(body))

    return damage


def pickled(name: str, beside: bool = False) -> Damage:
    def damage(folder: Path) -> None:
        if not beside:
            (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Evil(canary_of(folder))))

    return damage


def link(name: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def fifo(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return damage


def header(change: Callable[[dict[str, Any]], None] | None = None, length: int | None = None) -> Damage:
    """Falsifies the header of the safetensors file."""

    def damage(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        fields = json.loads(content[8 : 8 + size])
        if change is not None:
            change(fields)
        changed = json.dumps(fields).encode()
        prefix = struct.pack("<Q", len(changed) if length is None else length)
        (folder / "model.safetensors").write_bytes(prefix + changed + content[8 + size :])

    return damage


def first(fields: dict[str, Any]) -> dict[str, Any]:
    return next(value for name, value in fields.items() if name != "__metadata__")


def many_tensors(folder: Path) -> None:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    fields = json.dumps({f"w{number}": entry for number in range(201_000)}, separators=(",", ":")).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(fields)) + fields)


def pattern(part: str, expression: str) -> Damage:
    """Puts a regular expression into a part of the tokenizer."""
    types: dict[str, dict[str, Any]] = {
        "normalizer": {"type": "Replace", "content": ""},
        "pre_tokenizer": {"type": "Split", "behavior": "Isolated", "invert": False},
        "decoder": {"type": "Replace", "content": ""},
    }
    changed = {part: types[part] | {"pattern": {"Regex": expression}}}
    return tokenizer(lambda fields: fields.update(changed))


def added_token(fields: dict[str, Any]) -> None:
    """Adds a token that is normalised when it is loaded, on which the pattern takes for ever."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    fields["added_tokens"].append({"id": 299, "content": "qz" * 30, "normalized": True} | flags)
    fields["normalizer"] = {"type": "Replace", "content": "", "pattern": {"Regex": BACKTRACKING["words"]}}


def template(text: str) -> Damage:
    return write("chat_template.jinja", text.encode())


def tokenizer(change: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(folder: Path) -> None:
        fields = json.loads((folder / "tokenizer.json").read_text())
        change(fields)
        (folder / "tokenizer.json").write_text(json.dumps(fields))

    return damage


def write(name: str, content: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


AUTO_MAP = {
    "AutoConfig": "evil.Evil",
    "AutoModelForCausalLM": "evil.Evil",
    "AutoTokenizer": ["evil.Evil", None],
}
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
# Expressions that take twice as long for each further character, up to a limit of their library or beyond it.
BACKTRACKING = {
    "repeated": r"(k+)+[0-9]",
    "alternatives": r"(m|m|mm)+[0-9]",
    "words": r"((?:qz)+)+[0-9]",
    "below the limit": "|".join(["(?:v|v){18}[0-9]"] * 200),
}
DOUBLES = "{% set n = namespace(x='x' * 9) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"

CORPUS: dict[str, Damage] = {
    "pickle-bin": pickled("pytorch_model.bin"),
    "pickle-pt": pickled("model.pt"),
    "pickle-as-safetensors": pickled("model.safetensors"),
    "pickle-in-shards": pickled("pytorch_model-00001-of-00002.bin"),
    "pickle-index": pickled("pytorch_model.bin.index.json"),
    "pickle-gguf": pickled("model.gguf"),
    "auto-map": code(auto_map=AUTO_MAP),
    "auto-map-remote": code(auto_map={"AutoConfig": "other/repository--evil.Evil"}),
    "auto-map-unknown-type": code(auto_map=AUTO_MAP, model_type="evil"),
    "auto-map-nested": code(text_config={"auto_map": AUTO_MAP}),
    "auto-map-in-list": code(parts=[{"deep": {"auto_map": AUTO_MAP}}]),
    "auto-map-tokenizer": code("tokenizer_config.json", auto_map=AUTO_MAP),
    "auto-map-generation": code("generation_config.json", auto_map={"x": "evil.Evil"}),
    "auto-map-processor": code("processor_config.json", auto_map={"AutoProcessor": "evil.Evil"}),
    "auto-map-preprocessor": code("preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"}),
    "custom-generate": code("adapter_config.json", auto_map=AUTO_MAP, peft_type="LORA"),
    "adapter": edit("adapter_config.json", base_model_name_or_path="evil/base", peft_type="LORA"),
    "quantised": edit("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
    "quantised-unknown": edit("config.json", quantization_config={"quant_method": "evil"}),
    "index-parent": index("../pickle.safetensors"),
    "index-absolute": index("/etc/passwd"),
    "index-backslash": index("..\\evil.safetensors"),
    "index-dots": index(".."),
    "index-empty-name": index(""),
    "index-folder": index("a/b.safetensors"),
    "index-number": index(7),
    "index-list": index(["x"]),
    "index-null-byte": index("a\0.safetensors"),
    "index-pickle": index("pytorch_model.bin"),
    "index-missing": index("model-00001-of-00002.safetensors"),
    "index-no-map": index(shape={}),
    "index-map-of-wrong-kind": index(shape={"weight_map": [1]}),
    "index-list-itself": index(shape=[]),
    "link-weights": link("model.safetensors", "/etc/hostname"),
    "link-config": link("config.json", "../../secret.json"),
    "link-tokenizer": link("tokenizer.json", "/etc/passwd"),
    "link-folder": link("additional_chat_templates", "/etc"),
    "link-loop": link("config.json", "config.json"),
    "fifo-config": fifo("config.json"),
    "fifo-weights": fifo("model.safetensors"),
    "fifo-tokenizer": fifo("tokenizer_config.json"),
    "header-too-long": header(length=2**62),
    "header-longer-than-file": header(length=10**7),
    "header-offsets-beyond": header(lambda fields: first(fields).update(data_offsets=[0, 2**50])),
    "header-offsets-negative": header(lambda fields: first(fields).update(data_offsets=[-8, 0])),
    "header-shape-lies": header(lambda fields: first(fields).update(shape=[2**31, 2**31])),
    "header-unknown-type": header(lambda fields: first(fields).update(dtype="EVIL")),
    "header-is-no-json": write("model.safetensors", struct.pack("<Q", 5) + b"evil!"),
    "weights-empty": write("model.safetensors", b""),
    "config-is-no-json": write("config.json", b"{"),
    "config-deep": write("config.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "config-huge-shape": edit("config.json", hidden_size=2**40),
    "config-negative": edit("config.json", num_hidden_layers=-1),
    "config-wrong-kind": edit("config.json", hidden_size="evil"),
    "config-million-layers": edit("config.json", num_hidden_layers=10**6),
    "config-wide-heads": edit("config.json", head_dim=10**6),
    "config-negative-window": edit("config.json", max_position_embeddings=-5),
    "config-nested-stop": edit("config.json", eos_token_id=[[1]]),
    "generation-nested-stop": edit("generation_config.json", eos_token_id=[[1]]),
    "tokenizer-multiplies": tokenizer(
        lambda told: told.update(
            normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
        )
    ),
    "weights-by-the-hundred-thousand": many_tensors,
    "index-of-millions": write("model.safetensors.index.json", b'{"a": [' + b"1," * 1_100_000 + b"1]}"),
    "config-of-millions": write("config.json", b'{"a": [' + b"[]," * 1_100_000 + b"1]}"),
    "special-tokens-of-millions": write("special_tokens_map.json", b'{"a": [' + b"[]," * 1_100_000 + b"1]}"),
    "vocabulary-of-millions": tokenizer(
        lambda fields: fields["model"]["vocab"].update({f"x{i}": 400 + i for i in range(1_000_000)})
    ),
    "config-thousand-layers": edit("config.json", num_hidden_layers=1001),
    "tokenizer-deep": write("tokenizer.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "tokenizer-config-deep": write("tokenizer_config.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "generation-config-deep": write("generation_config.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "normalizer-backtracks": pattern("normalizer", BACKTRACKING["repeated"]),
    "pre-tokenizer-backtracks": pattern("pre_tokenizer", BACKTRACKING["alternatives"]),
    "decoder-backtracks": pattern("decoder", BACKTRACKING["words"]),
    "added-token-backtracks": tokenizer(added_token),
    "config-many-layers": edit("config.json", num_hidden_layers=50),
    "template-loops": template(LOOPS),
    "template-doubles": template(DOUBLES),
    "template-wide": template("{{ '%2000000000d' % 1 }}"),
    "tokenizer-is-no-json": write("tokenizer.json", b"evil"),
    "tokenizer-is-a-list": write("tokenizer.json", b"[]"),
    "tokenizer-of-another-kind": tokenizer(lambda fields: fields.update(model={"type": "Evil"})),
    "tokenizer-class-of-its-own": code("tokenizer_config.json", tokenizer_class="Evil", auto_map=AUTO_MAP),
}  # fmt: skip
# These are served, because nothing hostile in them is read or run.
HARMLESS: dict[str, Damage] = {
    "tokenizer-beyond-vocabulary": tokenizer(
        lambda fields: fields["model"]["vocab"].update({f"evil{i}": 10**6 + i for i in range(9)})
    ),
    "config-endless-window": edit("config.json", max_position_embeddings=10**15),
    "tokenizer-pads": tokenizer(
        lambda fields: fields.update(
            padding={
                "strategy": {"Fixed": 10**9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<|bos|>",
            }
        )
    ),
    "pickle-beside": pickled("pytorch_model.bin", beside=True),
    "code-beside": code("README.json"),
    "template-that-reaches": template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "tokenizer-class-unknown": edit("tokenizer_config.json", tokenizer_class="EvilTokenizer"),
    "attention-of-a-stranger": edit("config.json", _attn_implementation="evil/kernel"),
}


def make(sound: Path, corpus: Path) -> None:
    """Makes every repository of the corpus, each in its own folder."""
    (corpus.parent / "secret.json").write_text("{}")
    for name, damage in (CORPUS | HARMLESS).items():
        shutil.copytree(sound, corpus / name)
        damage(corpus / name)


def load_all(corpus: Path) -> dict[str, str]:
    """Returns for each folder the code of the error that refused it, `served`, or an error without a code."""
    from app.core.errors import DomainError
    from app.engine.ipc.messages import WorkerSpec
    from app.engine.startup import build_engine

    outcomes = {}
    for folder in sorted(path for path in corpus.iterdir() if path.is_dir()):
        spec = WorkerSpec(str(folder), folder.name, dtype="float32", threads=1, kv_cache_bytes=10_000_000)
        try:
            build_engine(spec, lambda _: None)
            outcomes[folder.name] = "served"
        except DomainError as error:
            outcomes[folder.name] = error.code
        except BaseException as error:  # the test looks for errors that escape
            outcomes[folder.name] = f"{type(error).__name__}: {error}"[:300]
    return outcomes


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    print(json.dumps(load_all(Path(sys.argv[1]))))  # noqa: T201
