"""Fixtures for tests of the whole program: a server with the built-in model and a tiny gpt2."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from app.engine.ipc.launcher import ForkServer
from tests.postgres import PostgresServer, find_programs, running_postgres
from tests.server import RunningServer, running_server

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it asks the network for it
# No example may fail because the machine is busy.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Escapes lone surrogates in captured output, because pytest-xdist cannot send them."""
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Passes of tiny models are too short for several threads, which starve each other on a busy machine."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """A fork server for all tests of the session, so that torch is imported only once. No test may end it."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def shared_fork_server(fork_server: ForkServer) -> Path:
    """Its socket."""
    return fork_server.path


@pytest.fixture(scope="session")
def cache_with_tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model cache in which `gpt2` is a tiny model with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.engine.tiny import configs, make_tokenizer

    cache = tmp_path_factory.mktemp("models")
    folder = cache / "openai-community" / "gpt2"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    torch.manual_seed(0)
    config = configs(len(tokenizer))["gpt2"]
    config.n_positions = 1024  # room for a reply that is long enough to be interrupted
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return cache


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, cache_with_tiny_gpt2: Path, shared_fork_server: Path
) -> Iterator[RunningServer]:
    """A server that many tests share. A test that switches its model switches back to `builtin`."""
    settings = {
        "LLM_MODEL_NAME": "builtin",
        "LLM_MODEL_CACHE_DIR": str(cache_with_tiny_gpt2),
        "LLM_FORK_SERVER": str(shared_fork_server),
    }
    with running_server(tmp_path_factory.mktemp("server"), **settings) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that many tests share."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with running_postgres(programs) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of an empty database of it."""
    return postgres.url(postgres.new_database())
