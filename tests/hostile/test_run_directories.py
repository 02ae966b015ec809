"""Run directories, stores and studies of others whose files are pipes, devices or directories: refused in words, and at once."""

import json
import os
import signal

import pytest

from circuits import InputError
from circuits.measure.store import Pieces
from circuits.methods.acdc.record import QUESTION_FILE, Record
from circuits.report import report_sections
from circuits.runs.directory import RunDirectory
from circuits.runs.files import RUN_FILE
from circuits.runs.read import read_runs
from circuits.runs.source import read_source
from circuits.study.directory import KNOWN_FILE, STUDY_FILE, TOKEN_FILE, StudyDirectory
from tests.hostile.readers import EVALUATION, STUDY, run_directory

FILES = ("run.json", "pairs.jsonl", "circuit.json", "scores.safetensors", "evaluation.json", "config.toml")
KINDS = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "directory": os.mkdir,
    "loop": lambda path: path.symlink_to(path),
}


@pytest.fixture(autouse=True)
def killed_if_it_waits():
    signal.alarm(60)
    yield
    signal.alarm(0)


def replaced(path, kind):
    path.unlink(missing_ok=True)
    KINDS[kind](path)


@pytest.fixture
def run(tmp_path):
    """As `RunDirectory.write` leaves it: with the sums of its files."""
    place = run_directory(tmp_path / "run")
    (place / "evaluation.json").write_text(json.dumps(EVALUATION))
    (place / "config.toml").write_text("")
    record = json.loads((place / RUN_FILE).read_text())
    (place / RUN_FILE).write_text(json.dumps({**record, "files": dict.fromkeys(FILES[1:], "0" * 64)}))
    return place


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_run_is_waited_for(name, kind, run):
    for other in FILES[1:]:
        if other != name:
            (run / other).unlink()
    replaced(run / name, kind)
    for read in (read_source, lambda path: read_runs([path]), lambda path: report_sections([path])):
        with pytest.raises(InputError):
            read(run)
    with pytest.raises(InputError):
        RunDirectory(run).check_free()


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_no_file_of_a_store_is_waited_for(kind, tmp_path):
    Pieces(tmp_path / "pieces", {"a": 1})
    replaced(tmp_path / "pieces" / "x.safetensors", kind)
    with pytest.warns(UserWarning, match="damaged"):
        assert Pieces(tmp_path / "pieces", {"a": 1}).get("x") is None
    replaced(tmp_path / "pieces" / "manifest.json", kind)
    with pytest.raises(InputError):
        Pieces(tmp_path / "pieces", {"a": 1})
    (tmp_path / "record").mkdir()
    replaced(tmp_path / "record" / QUESTION_FILE, kind)
    with pytest.raises(InputError):
        Record(tmp_path / "record", {})


@pytest.mark.filterwarnings("ignore::circuits.errors.DamageWarning")  # that it is made again is told
@pytest.mark.parametrize("name", [TOKEN_FILE, STUDY_FILE, KNOWN_FILE, "study.base"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_file_of_a_study_is_waited_for(kind, name, tmp_path):
    from circuits.study import parse_study
    from circuits.study import status as status_of

    made = StudyDirectory.begin(tmp_path / "study")
    made.keep_study(parse_study(STUDY))
    replaced(made.path / name, kind)
    try:
        opened = StudyDirectory.open(made.path)
        status_of(opened.study(), opened)
        assert opened.token
    except InputError:
        return
    assert name == KNOWN_FILE
