"""Fetches the libraries of the web page anew from npm: `python -m tests.ui.vendor`.

app/ui/vendor/manifest.json names each package, its version, its licence, its files and their checksums. A
file that comes with another checksum is refused, unless `--update` accepts it, for example of a new version.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.server import ROOT

FOLDER = ROOT / "app" / "ui" / "vendor"
MANIFEST = FOLDER / "manifest.json"
_NPM_S = 120


@dataclass(frozen=True, slots=True)
class VendoredFile:
    """A file of a package. `sha256` is None if it was never fetched."""

    package: str  # as npm names it, with its version
    path: str  # below FOLDER
    source: str  # in the package
    sha256: str | None


def vendored_files() -> list[VendoredFile]:
    """The files that the manifest names."""
    return [
        VendoredFile(f"{package['name']}@{package['version']}", path, entry["from"], entry.get("sha256"))
        for package in _manifest()["packages"]
        for path, entry in package["files"].items()
    ]


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    accepts_changes = "--update" in sys.argv[1:]
    files = vendored_files()
    checksums = {}
    for package in sorted({file.package for file in files}):
        wanted = {file.source: file for file in files if file.package == package}
        for source, content in _contents(package, set(wanted)).items():
            file = wanted[source]
            checksums[file.path] = found = checksum(content)
            if file.sha256 not in (None, found) and not accepts_changes:
                sys.exit(f"{file.path} of {package} has another checksum than in the manifest: {found}")
            target = FOLDER / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    _record(checksums)
    sys.stdout.write(f"{len(checksums)} files are in {FOLDER.relative_to(ROOT)}\n")


def _contents(package: str, sources: set[str]) -> dict[str, bytes]:
    """The contents of the package's files. npm checks the package against its registry's checksum."""
    with tempfile.TemporaryDirectory() as folder:
        packing = ["npm", "pack", "--silent", "--pack-destination", folder, package]
        subprocess.run(packing, check=True, timeout=_NPM_S, cwd=folder, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as members:
            found = {source: members.extractfile(f"package/{source}") for source in sources}
            return {source: file.read() for source, file in found.items() if file is not None}


def _record(checksums: dict[str, str]) -> None:
    manifest = _manifest()
    for package in manifest["packages"]:
        for path, entry in package["files"].items():
            entry["sha256"] = checksums[path]
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _manifest() -> Any:  # Any: a JSON document
    return json.loads(MANIFEST.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
