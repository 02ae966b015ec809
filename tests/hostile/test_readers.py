"""No file makes anything but an `InputError`, whichever reader it is given to."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.mutate import mutated
from tests.hostile.readers import READERS, tried

EXAMPLES = 100
FUZZ = Path(__file__).with_name("fuzz.py")


def check_told(message):
    assert message is None or 0 < len(message.strip()) < 3000


@pytest.fixture(scope="module", params=READERS)
def reader(request):
    return READERS[request.param]


def test_valid_files_are_taken(reader, tmp_path):
    (tmp_path / "examples").mkdir()
    for data in reader.files(tmp_path / "examples"):
        assert tried(reader, data, tmp_path) is None


def test_changed_files_are_taken_or_refused(reader, tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    (place / "examples").mkdir()
    examples = reader.files(place / "examples")

    @settings(max_examples=int(EXAMPLES * reader.share), derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(seed=st.integers(0, 2**32))
    def check(seed):
        draw = random.Random(seed)
        check_told(tried(reader, mutated(draw.choice(examples), draw, reader.kind), place))

    check()


def test_any_bytes_are_taken_or_refused(reader, tmp_path_factory):
    place = tmp_path_factory.mktemp("files")

    @settings(max_examples=int(20 * reader.share) + 1, derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(data=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode(errors="replace")))
    def check(data):
        check_told(tried(reader, data, place))

    check()


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.direct])
def test_directories_links_and_pipes_are_refused(name, tmp_path):
    reader = READERS[name]
    signal.alarm(60)  # Who waits for a pipe is killed.
    path = tmp_path / f"file{reader.suffix}"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "nowhere", tmp_path / "loop", tmp_path / "pipe"):
        path.symlink_to(target)
        with pytest.raises(reader.refusals):
            reader.read(path)
        path.unlink()
    signal.alarm(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["circuit"])
def test_atheris_finds_nothing_in_some_seconds(name):
    pytest.importorskip("atheris")
    command = [sys.executable, str(FUZZ), name, "--runs", "3000", "--seconds", "20"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
