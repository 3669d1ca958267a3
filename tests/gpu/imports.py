"""Imports every module of the program and reports the versions of the libraries and the graphics card."""

import pkgutil
import platform
from importlib import import_module
from importlib.metadata import version

import torch

import app
from tests.gpu.figures import Figures
from tests.gpu.wheels import wrong_versions

_LIBRARIES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "numpy",
    "pydantic",
    "fastapi",
)
_NOT_IMPORTED = (  # scripts, and what needs an optional dependency
    *("app.builtin.training", "app.models.storage.sql.migrations.env"),
    "app.core.telemetry.otel",
)


def main() -> None:
    figures = Figures()
    figures.add("python", platform.python_version())
    for library in _LIBRARIES:
        figures.add(library, version(library))
    if torch.cuda.is_available():
        figures.add("card", torch.cuda.get_device_name())
        figures.add("memory, GB", torch.cuda.mem_get_info()[1] / 1e9)
        figures.add("CUDA", torch.version.cuda)
    names = [module.name for module in pkgutil.walk_packages(app.__path__, "app.")]
    imported = [
        name for name in names if not name.startswith(_NOT_IMPORTED) and not name.endswith("__main__")
    ]
    for name in imported:
        import_module(name)
    figures.add("modules", len(imported))
    figures.add("outside requirements.txt", wrong_versions())


if __name__ == "__main__":
    main()
