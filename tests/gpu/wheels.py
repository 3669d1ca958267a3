"""Finds the packages that a machine with torch and transformers lacks, and downloads them as wheels."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
_THERE = ("torch", "transformers", "accelerate")  # with all that they need
_TOGETHER = ("pytest", "pytest-cov", "pytest-xdist", "hypothesis", "rich", "httpx")
_PLATFORMS = ("manylinux1", "manylinux2014", *(f"manylinux_2_{minor}" for minor in (17, 24, 27, 28, 31, 34)))


def missing_packages(there: Iterable[str] | None = None) -> list[str]:
    """Returns `name==version` of each package that the project needs and that is not `there`.

    Without names, torch and transformers are there, with all that they need. The versions are those of this
    environment. The packages that run the tests are always among them, because they must fit each other.
    """
    wanted = _closure(required())
    known = _closure(_THERE) if there is None else {_canonical(name) for name in there}
    known -= _closure(line for line in required() if Requirement(line).name in _TOGETHER)
    return [f"{name}=={distribution(name).version}" for name in sorted(wanted - known)]


def required() -> list[str]:
    """Returns the lines of requirements.txt that name packages."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def wrong_versions() -> list[str]:
    """Returns the packages of this environment that are missing, or outside the range of requirements.txt."""
    found = []
    for requirement in map(Requirement, required()):
        try:
            version = distribution(requirement.name).version
        except PackageNotFoundError:
            found.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version} is not {requirement.specifier}")
    return found


def download(pins: Iterable[str], folder: Path) -> None:
    """Downloads the wheels for this version of Python on Linux with an x86-64 processor."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    platforms = [option for name in _PLATFORMS for option in ("--platform", f"{name}_x86_64")]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--implementation", "cp", "--python-version", version, *platforms]
    subprocess.run([*command, *pins], check=True, timeout=600)


def _closure(requirements: Iterable[str]) -> set[str]:
    """Returns the installed packages that these requirements need, directly or not."""
    found: set[str] = set()
    pending = [(Requirement(line), "") for line in requirements]
    while pending:
        requirement, extra = pending.pop()
        name = _canonical(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if name in found and not requirement.extras:
            continue
        found.add(name)
        pending += _needs(name, requirement.extras)
    return found


def _needs(name: str, extras: set[str]) -> Iterator[tuple[Requirement, str]]:
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:  # it is for another platform
        return
    for line in lines:
        for extra in extras or {""}:
            yield Requirement(line), extra


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
