"""Rules of the code that a test can check: imports, sizes of packages, names, docstrings."""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_MODULES = 12  # besides __init__.py
LAYERS = {
    "core": 1,
    "engine": 2,
    "models": 3,
    "services": 4,
    "lifecycle": 5,
    "single_process": 5,
    "command_line": 5,
    "api": 5,
    "conversations": 5,
    "composition": 6,
    "main": 6,
    "__main__": 7,
}
TORCH_FREE = (
    "app.main",
    "app.__main__",
    "app.engine.backend",
    "app.engine.ipc.client",
    "app.engine.scheduling.scheduler",
    "app.engine.replies.detokenizer",
)


def modules() -> list[Path]:
    return sorted((ROOT / "app").rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> str:
    return module.split(".")[1] if module.startswith("app.") else ""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imported(path):
        other = layer(module)
        if own in ("cli", "apicheck", "status") and module.startswith("app"):
            assert other in ("cli", own) or module.startswith("app.models.schemas"), module
        elif own == "builtin" and module.startswith("app"):
            assert other in ("builtin", "core"), module
        elif other in LAYERS:
            assert LAYERS[other] <= LAYERS[own], module
        else:
            assert other not in ("cli", "apicheck", "builtin"), module


def test_engine_alone_knows_torch() -> None:
    for path in modules():
        heavy = {name.split(".")[0] for name in imported(path)} & {"torch", "transformers", "tokenizers"}
        assert not heavy or path.relative_to(ROOT).parts[1] in ("engine", "builtin"), path


@pytest.mark.parametrize("module", [*TORCH_FREE, "chat_cli", "client_test", "standalone_test"])
def test_server_and_client_never_load_torch(module: str) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert not {"torch", "transformers"} & set(loaded)


@pytest.mark.parametrize("module", ["app.main", "chat_cli"])
def test_server_without_a_database_and_client_never_load_its_libraries(module: str) -> None:
    script = f"import sys, {module}; app = getattr({module}, 'app', None); print(*sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    assert not {"sqlalchemy", "alembic", "aiosqlite", "asyncpg"} & set(loaded)


def test_no_package_has_more_than_twelve_modules() -> None:
    sizes = Counter(path.parent for path in modules() if path.name != "__init__.py")
    assert not {str(package.relative_to(ROOT)): n for package, n in sizes.items() if n > MAX_MODULES}


def defined(path: Path) -> Iterator[str]:
    """The classes and type aliases at the top of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef(name=name) if not name.startswith("_"):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name[0].isupper():
                if not name.isupper() and not isinstance(value, ast.Call):
                    yield name


def test_no_two_classes_or_aliases_share_a_name() -> None:
    found: dict[str, list[str]] = {}
    for path in modules():
        for name in defined(path):
            found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert not {name: places for name, places in found.items() if len(places) > 1}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_docstring_says_what_the_module_does(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not (ast.get_docstring(tree) or "").startswith("Owns")
    assert ast.get_docstring(tree) or not tree.body


WAITING = (
    "waiting.py",
    "peers.py",
    "standin.py",
    "stand_in",
)  # polling, and imitations of slow servers
TESTS = [path for path in sorted((ROOT / "tests").rglob("*.py")) if not {*path.parts} & {*WAITING}]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_wait_with_a_bound_and_for_no_fixed_time(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    assert [line for name, arguments, line in method_calls(ast.walk(tree)) if is_fixed(name, arguments)] == []
    assert [line for name, arguments, line in method_calls(statements) if is_unbounded(name, arguments)] == []


def method_calls(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, list[str], int]]:
    """The name, the arguments and the line of each call of a method or of a module's function."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            yield node.func.attr, [ast.unparse(argument) for argument in arguments], node.lineno


def is_fixed(name: str, arguments: list[str]) -> bool:
    return name == "sleep" and arguments != ["0"]


def is_unbounded(name: str, arguments: list[str]) -> bool:
    return name in ("wait", "join", "communicate") and not arguments
