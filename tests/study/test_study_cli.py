"""`circuits study` from the outside."""

import sys

import pytest

from circuits import cli
from circuits.workers import ray

TEXT = 'models = ["compiled/or-gate"]\ntasks = ["compiled/or-gate"]\nn = 2\n[methods.eap]\n'


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(TEXT)
    return path


def command(monkeypatch, *arguments):
    """Runs `circuits study …`; its exit code."""
    monkeypatch.setattr(sys, "argv", ["circuits", "study", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--on", "ray"], "Ray is not installed"),
        (["--workers", "2"], "need --on"),
        (["--divide-runs"], "--divide-runs needs --on"),
    ],
)
def test_workers_that_cannot_be_had_leave_no_directory(more, words, study, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it fails
    assert command(monkeypatch, "run", study, "--out", tmp_path / "out", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_directory_of_others_is_refused_before_workers_start(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ray, "RayWorkers", None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    assert command(monkeypatch, "run", study, "--out", tmp_path / "out", "--on", "ray") == 2
    assert "not a study's directory" in capsys.readouterr().err
