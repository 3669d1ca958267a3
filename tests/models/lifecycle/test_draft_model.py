"""A draft model is used if it is on the disk, has the same vocabulary, and fits beside its model."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.catalogue import BUILTIN_PATH
from app.core.config import Settings
from app.core.model_folder import weight_bytes
from app.models.hub.client import Hub
from app.models.lifecycle.eviction_policy import EvictionPolicy
from app.models.lifecycle.state import ModelState
from app.models.model_manager import ModelManager
from tests.models.conftest import asyncio_timeout, collect, profile


@pytest.mark.parametrize(
    ("draft", "is_short", "guesses"),
    [
        ("tiny-b", False, True),
        ("tiny-b", True, False),
        ("builtin", False, False),  # it has another vocabulary
        ("missing", False, False),
    ],
)
def test_draft_is_used_if_it_can_be(
    tiny_folders: dict[str, Path],
    settings: Settings,
    tmp_path: Path,
    draft: str,
    is_short: bool,
    guesses: bool,
) -> None:
    folders = {**tiny_folders, "builtin": BUILTIN_PATH, "missing": tmp_path / "missing"}
    catalogue = {name: profile(name, folder) for name, folder in folders.items()}
    catalogue["tiny-a"] = replace(catalogue["tiny-a"], draft=draft)
    policy = EvictionPolicy.from_settings(settings)
    alone = policy.needed_bytes(ModelState(catalogue["tiny-a"]), folders["tiny-a"])
    limit = alone + weight_bytes(folders["tiny-b"]) - 1 if is_short else 10**12
    with asyncio.Runner() as runner:
        models = ModelManager(settings, catalogue, Hub(tmp_path), replace(policy, limit_bytes=limit))
        try:
            runner.run(asyncio_timeout(collect(models.load("tiny-a"))))
            state = models.find("tiny-a")
            assert state.loaded is not None
            assert state.loaded.backend.info.draft == (str(folders[draft]) if guesses else None)
            assert (state.measured_bytes is None) == guesses  # else a reload would count the draft twice
        finally:
            runner.run(models.close())
