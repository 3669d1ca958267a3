"""The files of the page: their types, their sizes, and the checksums of what it brings along."""

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.api.web.page import FOLDER
from tests.ui.vendor import FOLDER as VENDOR, checksum, vendored_files

HERE = Path(__file__).parent
TYPESCRIPT = HERE / "node_modules" / "typescript" / "bin" / "tsc"
MOST_BYTES = 250_000  # compressed, of all that a browser could ever load
MOST_LINES = 250


def loaded() -> list[Path]:
    """The files that a browser loads."""
    kinds = (".html", ".css", ".js", ".svg", ".woff2")
    return [path for path in FOLDER.rglob("*") if path.suffix in kinds]


def test_types_of_the_modules_are_right() -> None:
    if shutil.which("node") is None or not TYPESCRIPT.is_file():
        pytest.skip("TypeScript is not installed (npm ci --prefix tests/ui)")
    command = ["node", str(TYPESCRIPT), "-p", str(HERE / "tsconfig.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_libraries_are_those_of_the_manifest() -> None:
    files = vendored_files()
    for file in files:
        assert checksum((VENDOR / file.path).read_bytes()) == file.sha256, file.path
    own = {path for path in VENDOR.rglob("*") if path.suffix in (".js", ".css", ".woff2")}
    assert own == {
        VENDOR / file.path for file in files if Path(file.path).suffix in (".js", ".css", ".woff2")
    }
    assert {Path(file.path).parts[0] for file in files if file.source == "LICENSE"} == {
        path.name for path in VENDOR.iterdir() if path.is_dir()
    }


def test_page_is_small() -> None:
    assert sum(len(gzip.compress(path.read_bytes())) for path in loaded()) < MOST_BYTES


def test_page_asks_for_all_its_modules_at_once() -> None:
    named = re.findall(r'"modulepreload" href="ui/([^"]+)"', (FOLDER / "index.html").read_text())
    needed = {path for path in loaded() if path.suffix == ".js"} - {
        FOLDER / "main.js",  # which is loaded as a script
        FOLDER / "vendor" / "temml" / "temml.min.js",  # the same
        *(VENDOR / "highlight" / "languages").iterdir(),  # each is loaded when its language appears
    }
    assert {FOLDER / name for name in named} == needed


def test_modules_are_short() -> None:
    own = [path for path in loaded() if path.suffix == ".js" and VENDOR not in path.parents]
    assert {path.name for path in own if len(path.read_text().splitlines()) > MOST_LINES} == set()
