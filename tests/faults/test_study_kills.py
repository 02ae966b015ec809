"""A study that is killed at any moment, or that finds no room, ends with the same table and the same runs."""

import sys

import pytest

from circuits.errors import InputError
from circuits.study import StudyDirectory, parse_study, run_study, table, write_table
from tests.faults.killing import files, survives

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")]
TEXT = """
models = ["compiled/or-gate"]
tasks = ["compiled/or-gate"]
n = 2
[methods.eap]
edges = 9
random-circuits = 0
[methods.coar]
samples = 32
fit = "ridge"
[methods.exact-edges]
edges = 9
random-circuits = 0
[evaluation]
parts = ["completeness"]
"""


def work(progress):
    out = StudyDirectory.begin("study")
    study = parse_study(TEXT)
    progress()
    outcome = run_study(study, out)
    assert outcome.states == {"done": 3}, outcome.entries
    write_table(table(study, out), "table.csv")


def result(place):
    runs = sorted((place / "study" / "runs").iterdir())
    compared = ("scores.safetensors", "circuit.json", "pairs.jsonl")
    return (
        (place / "table.csv").read_bytes(),
        [(run.name, files(run, *(name for name in compared if (run / name).exists()))) for run in runs],
        sorted(path.name for path in (place / "study").iterdir()),
    )


def test_a_study_that_is_begun(tmp_path):
    """At each of its moments: they are few."""
    survives(lambda progress: StudyDirectory.begin("study"), tmp_path, 30, names)


def names(place):
    return names_in(place / "study")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_no_study_is_not_begun_over(tmp_path):
    for name in ("mine", ".mine.circuits-part", ".study.id.1.circuits-part.txt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        with pytest.raises(InputError, match="not a study's directory"):
            StudyDirectory.begin(tmp_path / name)
        assert names_in(tmp_path / name) == [name]


def test_a_study(tmp_path, command_kills):
    survives(work, tmp_path, command_kills, result)


def test_a_study_on_a_full_disk_goes_on_when_there_is_room(disk, tmp_path):
    place = disk(1000)
    study = parse_study(TEXT)
    filler = place / "filler"
    filler.write_bytes(bytes(950_000))
    with pytest.raises(InputError, match="No space left on device"):
        run_study(study, StudyDirectory.begin(place / "study"))
    filler.unlink()
    out = StudyDirectory.begin(place / "study")
    assert run_study(study, out).states == {"done": 3}
