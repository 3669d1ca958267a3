"""The documents name only what exists: settings, commands, routes, models, files, modules and links."""

import re
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from app.cli.commands.registry import COMMANDS
from app.core.catalogue import CATALOGUE
from app.core.config import Settings
from app.main import create_app
from tests.server import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def test_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documents_name_only_files_modules_and_settings_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for script in re.findall(r"python (\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"python -m ((?:app|tests)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for name in re.findall(r"`((?:app|tests|docs)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\bLLM_([A-Z_]*[A-Z])\b", text):
        assert name.lower() in Settings.model_fields, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_torch_that_documents_install_satisfies_the_requirements(page: Path) -> None:
    [required] = re.findall(r"^torch(.+)$", read("requirements.txt"), re.MULTILINE)
    for version in re.findall(r"\btorch==([\d.]+)", page.read_text(encoding="utf-8")):
        assert SpecifierSet(required).contains(version), version


@pytest.mark.parametrize("page", ["README.md", "docs/models.md"])
def test_model_tables_list_the_whole_catalogue(page: str) -> None:
    rows = re.findall(r"^\| `([\w.-]+)` \|", read(page), re.MULTILINE)
    assert sorted(rows) == sorted(CATALOGUE)


def test_settings_page_lists_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `LLM_([A-Z_]+)` \| (.+?) \|", read("docs/settings.md"), re.MULTILINE))
    assert {name.lower() for name in rows} == set(Settings.model_fields)
    for name, shown in rows.items():
        default = Settings.model_fields[name.lower()].default
        if shown == "none":
            assert default in (None, "", ()), name
        elif shown in ("`auto`", "`never`"):
            assert default in (None, "auto"), name
        else:
            assert (
                shown == f"`{str(default).lower() if isinstance(default, bool) else default}`"
                or Path(shown.strip("`")) == default
            ), name


def test_terminal_page_lists_every_command_with_its_arguments() -> None:
    rows = re.findall(r"^\| `(/[^`]+)` \|", read("docs/terminal.md"), re.MULTILINE)
    assert sorted(row.replace(r"\|", "|") for row in rows) == sorted(command.usage for command in COMMANDS)


def test_api_page_lists_every_route() -> None:
    rows = re.findall(r"^\| `([A-Z]+) (/[^`]*)` \|", read("docs/api.md"), re.MULTILINE)
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]
    declared = [
        (method.upper(), path.removeprefix("/api/v1"))
        for path, operations in paths.items()
        for method in operations
        if path != "/"
    ]
    assert sorted(rows) == sorted(declared)


def test_readme_names_the_licence_the_python_version_and_every_page() -> None:
    readme = read("README.md")
    assert "Python 3.11" in readme and "[MIT](LICENSE)" in readme
    assert read("LICENSE").startswith("MIT License")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme, page.name
