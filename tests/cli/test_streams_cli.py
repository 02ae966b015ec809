"""Standard output of any encoding, closed, or without a reader, ends in no traceback, and the work is done all the same."""

import io
import os
import subprocess
import sys
from contextlib import chdir, suppress
from pathlib import Path

import pytest

from circuits.cli.streams import ERRORS, SPELLED
from tests.command import a_place, command, discover

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="handles are closed as on Unix")
ROOT = Path(__file__).resolve().parents[2]
EAP = ("--method", "eap", "--edges", 12, "--random-circuits", 0)
FULL = Path("/dev/full")


@pytest.fixture
def streams(monkeypatch):
    """Gives the process other streams: `streams(out=…, err=…)`."""

    opened = []

    def become(**given):
        for name, stream in given.items():
            opened.append(stream)
            monkeypatch.setattr(sys, f"std{name}", stream)

    yield become
    for stream in opened:
        with suppress(OSError, AttributeError):  # a full one has something left; None is none
            stream.close()


def nobody_reads():
    """The writing end of a pipe whose reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w", encoding="utf-8")


@pytest.mark.parametrize("encoding", ["cp932", "ascii", "latin-1", "cp1252", "utf-16-le", "utf-8"])
@pytest.mark.parametrize("given", [("tasks",), ("--help",), ("discover", "--help"), ("--version",)])
def test_any_encoding(encoding, given, streams):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
    streams(out=out, err=err)
    command(*given)
    text = out.buffer.getvalue().decode(encoding)
    assert err.buffer.getvalue() == b""
    assert "\\x" not in text
    assert ("docstring" if given == ("tasks",) else "circuits") in text.lower()
    if given == ("tasks",):
        assert ("García" if encoding in ("latin-1", "cp1252", "utf-16-le", "utf-8") else "Garcia") in text


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "latin-1"])
def test_a_run_and_a_refusal_with_names_that_the_encoding_cannot(encoding, streams, tmp_path):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
    a_place(tmp_path / "place")
    with chdir(tmp_path / "place"):
        streams(out=out, err=err)
        discover(*EAP, "--out", "été-ケ-\udcff")
        command("report", "nø-ケ-\udcff", code=2)
    assert b"written to " in out.buffer.getvalue()
    last = err.buffer.getvalue().splitlines()[-1].decode(encoding)
    assert last.startswith("circuits: n")
    assert last.count("\\udcff") == 1


def test_what_an_encoding_does_not_have_is_spelled():
    assert "a–b ± … é ケ \udcff".encode("ascii", ERRORS) == b"a-b +- ... e \\u30b1 \\udcff"
    assert "é ケ –".encode("cp932", ERRORS) == b"e \x83P -"
    assert "é\udcff".encode("utf-8", ERRORS) == b"\xc3\xa9\\udcff"
    assert all(text.isascii() for text in SPELLED.values())


@pytest.mark.parametrize("stream", [nobody_reads, lambda: None], ids=["reader gone", "closed"])
def test_a_run_is_written_where_nobody_reads(stream, streams, tmp_path):
    a_place(tmp_path / "place")
    with chdir(tmp_path / "place"):
        streams(out=stream(), err=stream())
        discover(*EAP)
        command("report", "RUN")
        command("report", "nothing", code=2)
        for given in (("tasks",), ("--help",), ("--version",)):
            command(*given)
        assert sorted(path.name for path in Path().iterdir()) == ["PAIRS.jsonl", "RUN", "report.html"]


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("given", [("tasks",), ("--help",), ("--version",)])
def test_a_full_disk_is_one_line(given, streams):
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    streams(out=FULL.open("w"), err=err)
    command(*given, code=2)
    err.flush()
    assert err.buffer.getvalue() == b"circuits: cannot write to standard output: No space left on device\n"
    streams(err=FULL.open("w"))
    command("report", "nothing", code=2)


def test_a_real_process(tmp_path):
    """Down to its last moment, when Python itself flushes: each line's exit codes, and nothing on standard error."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    circuits = f"'{sys.executable}' -m circuits"
    for line, code in (
        (f"{circuits} tasks | head -0", 0),
        (f"{circuits} tasks >&- 2>&- <&-", 0),
        (f"PYTHONIOENCODING=ascii:strict {circuits} tasks >/dev/null", 0),
        (f"{circuits} report nothing 2>&-", 2),
    ):
        asked = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
        done = subprocess.run(asked, capture_output=True, env=environment, timeout=600)
        assert (done.returncode, done.stderr) == (code, b""), line
