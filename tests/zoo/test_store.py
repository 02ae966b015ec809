"""Directories in the cache are whole or not there, whatever happens while they are made and afterwards."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from circuits.zoo import store

FILES = ("a.bin", "b.json")
Build = Callable[[Path, Path, store.Progress], None]


def build(scratch: Path, output: Path, progress: store.Progress) -> None:
    (scratch / "download").write_bytes(b"x" * 10)
    (output / "a.bin").write_bytes(b"weights")
    progress("convert", 7, 7)
    (output / "b.json").write_text("{}")


def forbidden(scratch: Path, output: Path, progress: store.Progress) -> None:
    raise AssertionError("it was whole, and is built again")


def ensure(final: Path, builder: Build = build, **options: bool) -> Path:
    return store.ensure(final, FILES, {"licence": "none"}, builder, **options)


def left_in(directory: Path) -> list[str]:
    """What is in the directory but the lock, which stays."""
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models" / "tiny.v1"


def test_a_directory_is_built_once_and_holds_its_own_sums(final: Path) -> None:
    assert store.problem(final, FILES) == store.MISSING
    assert ensure(final) == final
    assert store.problem(final, FILES, full=True) is None
    assert left_in(final.parent) == ["tiny.v1"]
    assert left_in(final) == ["a.bin", "b.json", "provenance.json"]
    record = json.loads((final / "provenance.json").read_text())
    assert record["licence"] == "none"
    assert record["files"]["a.bin"] == {"bytes": 7, "sha256": store.sha256(final / "a.bin")}
    assert ensure(final, forbidden) == final


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_interrupted_build_leaves_nothing(final: Path, error: type[BaseException]) -> None:
    def interrupted(scratch: Path, output: Path, progress: store.Progress) -> None:
        build(scratch, output, progress)
        raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        ensure(final, interrupted)
    assert left_in(final.parent) == []
    assert store.problem(final, FILES) == store.MISSING
    assert store.problem(ensure(final), FILES, full=True) is None


def test_a_build_that_forgets_a_file_is_an_error_and_leaves_nothing(final: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ensure(final, lambda scratch, output, progress: None)
    assert left_in(final.parent) == []


def test_an_interrupt_between_build_and_rename_leaves_nothing(final: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure(final)
    assert left_in(final.parent) == []


CHILD = """
import sys, time
from pathlib import Path
from circuits.zoo import store

def build(scratch, output, progress):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    (output / "a.bin").write_bytes(b"weights")
    time.sleep(float(sys.argv[3]))
    (output / "b.json").write_text("{}")

store.ensure(Path(sys.argv[1]), ("a.bin", "b.json"), {}, build)
"""


def child(final: Path, log: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(final), str(log), str(seconds)])


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_what_a_killed_process_leaves_is_not_taken_for_whole_and_is_swept(final: Path, tmp_path: Path) -> None:
    with child(final, tmp_path / "log", seconds=60) as process:
        wait_for(tmp_path / "log")
        process.send_signal(signal.SIGKILL)
    assert len(left_in(final.parent)) == 1
    assert store.problem(final, FILES) == store.MISSING
    ensure(final)
    assert left_in(final.parent) == ["tiny.v1"]


def test_of_two_processes_one_builds_and_both_end_well(final: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with child(final, log, seconds=0.5) as first, child(final, log, seconds=0.5) as second:
        assert (first.wait(30), second.wait(30)) == (0, 0)
    assert log.read_text() == "built\n"
    assert store.problem(final, FILES, full=True) is None


def test_who_waits_for_another_says_so(final: Path) -> None:
    stages, started, go_on = [], threading.Event(), threading.Event()

    def slow(scratch: Path, output: Path, progress: store.Progress) -> None:
        started.set()
        go_on.wait(30)
        build(scratch, output, progress)

    def report(stage: str, done: int, total: int) -> None:
        stages.append(stage)
        go_on.set()

    first = threading.Thread(target=ensure, args=(final, slow))
    first.start()
    started.wait(30)
    store.ensure(final, FILES, {}, forbidden, report)
    first.join(30)
    assert stages == ["wait for another process"]


def test_without_locks_it_is_built_all_the_same(final: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    left = final.parent / ".tiny.v1.tmp-1-00"
    left.mkdir(parents=True)
    ensure(final)
    assert left_in(final.parent) == [left.name, "tiny.v1"]  # it may be another's at work: not swept


@pytest.mark.parametrize("whole", [True, False])
def test_a_lost_race_is_no_error_if_the_winner_is_whole(
    final: Path, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def too_late(source: Path, target: Path) -> None:
        if whole:
            rename(source, target)
        raise OSError("directory not empty")

    monkeypatch.setattr(store.os, "replace", too_late)
    if whole:
        assert ensure(final) == final
    else:
        with pytest.raises(OSError, match="not empty"):
            ensure(final)
    assert left_in(final.parent) == (["tiny.v1"] if whole else [])


def provenance(text: str) -> Callable[[Path], object]:
    return lambda final: (final / "provenance.json").write_text(text)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda final: (final / "a.bin").unlink(), "a.bin is missing"),
        (lambda final: (final / "a.bin").write_bytes(b"weight"), "a.bin has 6 bytes, expected 7"),
        (lambda final: (final / "provenance.json").unlink(), r"provenance.json cannot be used \(FileNotFoundError"),
        (provenance("{"), r"provenance.json cannot be used \(JSONDecodeError"),
        (provenance("[]"), r"provenance.json cannot be used \(TypeError"),
        (provenance('{"files": {"a.bin": {}}}'), r"provenance.json cannot be used \(KeyError"),
        (provenance('{"files": {"a.bin": {"bytes": "many"}}}'), r"provenance.json cannot be used \(ValueError"),
        (lambda final: (final / "provenance.json").write_bytes(b"\xff"), r"provenance.json cannot be used \(Unicode"),
    ],
)
def test_damage_is_reported_and_mended(final: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(ensure(final))
    assert store.problem(final, FILES)
    with pytest.warns(UserWarning, match=f"is damaged \\({message}"):
        ensure(final)
    assert store.problem(final, FILES, full=True) is None
    assert left_in(final.parent) == ["tiny.v1"]


def test_a_file_in_the_place_of_the_directory_is_replaced(final: Path) -> None:
    final.parent.mkdir(parents=True)
    final.write_text("not a directory")
    with pytest.warns(UserWarning, match="is damaged"):
        ensure(final)
    assert store.problem(final, FILES, full=True) is None


def test_damage_that_keeps_the_size_is_seen_by_a_full_check(final: Path) -> None:
    (ensure(final) / "a.bin").write_bytes(b"WEIGHTS")
    assert store.problem(final, FILES) is None
    assert store.problem(final, FILES, full=True) == "a.bin has another SHA-256 than when it was written"
    ensure(final, forbidden)
    with pytest.warns(UserWarning, match="another SHA-256"):
        ensure(final, full=True)
    assert (final / "a.bin").read_bytes() == b"weights"


def test_the_damaged_copy_stays_until_the_new_one_is_ready(final: Path) -> None:
    (ensure(final) / "a.bin").unlink()

    def failing(scratch: Path, output: Path, progress: store.Progress) -> None:
        raise RuntimeError("no network")

    with pytest.warns(UserWarning, match="damaged"), pytest.raises(RuntimeError, match="no network"):
        ensure(final, failing)
    assert left_in(final) == ["b.json", "provenance.json"]
