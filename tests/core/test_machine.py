"""Free memory and usable cores within the limits of control groups, in folders that imitate the kernel's."""

import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from app.core.machine import (
    allow_many_open_files,
    available_bytes,
    has_free_cores,
    open_files_limit,
    usable_cores,
)

ROOT = "0::/\n"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def free(hierarchy: Path, own: str = ROOT) -> int:
    """Free bytes for a process whose /proc/self/cgroup has this text."""
    own_cgroups = hierarchy / "own"
    own_cgroups.write_text(own)
    return available_bytes(hierarchy, own_cgroups)


@pytest.mark.parametrize("statistics", ["anon 60\ninactive_file 30\nactive_file 5\n", "inactive_file 30\n"])
def test_available_bytes_counts_the_page_cache_as_free(tmp_path: Path, statistics: str) -> None:
    write(tmp_path, memory__max="100\n", memory__current="95\n", memory__stat=statistics)
    assert free(tmp_path) == 35


def test_available_bytes_version_1_counts_the_page_cache_as_free(tmp_path: Path) -> None:
    statistics = "inactive_file 7\ntotal_inactive_file 30\n"
    write(
        tmp_path / "memory",
        memory__limit_in_bytes="100",
        memory__usage_in_bytes="95",
        memory__stat=statistics,
    )
    assert free(tmp_path) == 35


def test_available_bytes_without_statistics_is_limit_less_use(tmp_path: Path) -> None:
    write(tmp_path, memory__max="100", memory__current="95")
    assert free(tmp_path) == 5
    write(tmp_path, memory__stat="garbage")
    assert free(tmp_path) == 5


def test_available_bytes_without_a_limit_is_the_hosts(tmp_path: Path) -> None:
    write(tmp_path, memory__max="max", memory__current="95")
    assert free(tmp_path) > 100


def test_available_bytes_reads_the_limit_of_a_systemd_service(tmp_path: Path) -> None:
    write(tmp_path / "system.slice" / "llm.service", memory__max="1000", memory__current="400")
    assert free(tmp_path, "0::/system.slice/llm.service\n") == 600


def test_available_bytes_reads_the_limits_of_the_groups_around_it(tmp_path: Path) -> None:
    write(tmp_path / "user.slice", memory__max="500", memory__current="450")
    write(tmp_path / "user.slice" / "shell.scope", memory__max="1000", memory__current="400")
    assert free(tmp_path, "0::/user.slice/shell.scope\n") == 50


def test_available_bytes_version_1_reads_the_group_of_the_memory_controller(tmp_path: Path) -> None:
    for path in ("docker/abc", "other"):
        limit = "300" if path == "docker/abc" else "10"
        write(tmp_path / "memory" / path, memory__limit_in_bytes=limit, memory__usage_in_bytes="100")
    own = "9:name=systemd:/other\n5:cpu,cpuacct:/other\n4:memory:/docker/abc\n0::/other\n"
    assert free(tmp_path, own) == 200


def test_available_bytes_reads_version_2_beside_version_1(tmp_path: Path) -> None:
    write(tmp_path / "unified" / "app", memory__max="80", memory__current="30")
    assert free(tmp_path, "4:memory:/\n0::/app\n") == 50


@pytest.mark.parametrize(
    "own",
    [
        "0::/kubepods/pod1/abc\n",
        "0::/../../other\n",
        "",
        "garbage\n",
        "0::/a:b\n",
        "1::\n",
        "0::/app (deleted)",
    ],
)
def test_available_bytes_reads_the_root_that_a_container_sees(tmp_path: Path, own: str) -> None:
    """Its group is the root of what it sees, while /proc may name the host's path."""
    write(tmp_path, memory__max="100", memory__current="95")
    write(tmp_path.parent / "other", memory__max="3", memory__current="0")
    assert free(tmp_path, own) == 5


def test_available_bytes_elsewhere_than_on_linux_is_the_hosts(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert available_bytes(nothing, nothing) == pytest.approx(psutil.virtual_memory().available, rel=0.5)


def cores(hierarchy: Path, own: str = ROOT) -> int:
    """Usable cores for a process whose /proc/self/cgroup has this text."""
    own_cgroups = hierarchy / "own"
    own_cgroups.write_text(own)
    return usable_cores(hierarchy, own_cgroups)


@pytest.fixture
def affine(tmp_path: Path) -> int:
    """The cores of this process's own affinity."""
    return usable_cores(tmp_path / "nothing", tmp_path / "nothing")


@pytest.mark.parametrize("limit", ["100000 100000", "50000 100000", "199999 100000", "1000 1000"])
def test_usable_cores_are_within_the_quota(tmp_path: Path, limit: str) -> None:
    write(tmp_path, cpu__max=f"{limit}\n")
    assert cores(tmp_path) == 1


@pytest.mark.parametrize(
    "limit", ["max 100000", "999900000 100000", "", "garbage", "100000 0", "-1 100000", "1"]
)
def test_usable_cores_without_a_limit_are_those_of_the_affinity(
    tmp_path: Path, affine: int, limit: str
) -> None:
    write(tmp_path, cpu__max=limit)
    assert cores(tmp_path) == affine


def test_usable_cores_reads_the_groups_around_it_and_version_1(tmp_path: Path, affine: int) -> None:
    write(tmp_path / "user.slice", cpu__max="100000 100000")
    write(tmp_path / "user.slice" / "shell.scope", cpu__max="max 100000")
    assert cores(tmp_path, "0::/user.slice/shell.scope\n") == 1
    write(tmp_path / "cpu" / "docker", cpu__cfs_quota_us="100000\n", cpu__cfs_period_us="100000\n")
    assert cores(tmp_path, "4:cpu,cpuacct:/docker\n") == 1
    write(tmp_path / "cpu" / "docker", cpu__cfs_quota_us="-1\n")
    assert cores(tmp_path, "4:cpu,cpuacct:/docker\n") == affine


def test_cores_are_free_beside_all_threads_that_run_on_the_machine(tmp_path: Path, affine: int) -> None:
    load = tmp_path / "loadavg"
    load.write_text("9.00 8.00 7.00 1/300 4711\n")  # the one that runs is the one that asks
    assert has_free_cores(affine, load)
    assert not has_free_cores(affine + 1, load)
    load.write_text("0.00 0.00 0.00 2/300 4711\n")
    assert not has_free_cores(affine, load)
    assert not has_free_cores(1, tmp_path / "nothing")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no CPU affinity")
def test_usable_cores_follow_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_limit_of_open_files_is_raised_as_far_as_allowed() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert open_files_limit() == 256
        allow_many_open_files()
        assert open_files_limit() > 256
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
