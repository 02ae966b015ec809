"""`circuits methods` and `circuits doctor`; short options."""

from contextlib import chdir

import pytest

from circuits.cli.discover_options import QuestionOptions, Written
from circuits.cli.terminal import _digits
from circuits.methods.catalogue import DECLARED
from circuits.runs import discover
from tests.command import GOLDEN_MODEL, a_place, command


def test_the_list_names_every_method(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    command("methods")
    shown = capsys.readouterr().out
    for name, method in DECLARED.items():
        assert name in shown
        assert method.help in shown


@pytest.mark.parametrize("name", DECLARED)
def test_every_option_of_a_method_is_shown(monkeypatch, capsys, name):
    monkeypatch.setenv("COLUMNS", "300")
    command("methods", "show", name)
    shown = capsys.readouterr().out
    for option in DECLARED[name].takes:
        assert f"--{option.spelled}" in shown
        assert option.help in shown


def test_an_unknown_method_is_refused_with_the_nearest(capsys):
    command("methods", "show", "eap-gi", code=2)
    assert "did you mean eap-ig?" in capsys.readouterr().err


def test_the_help_of_discover_fits_two_screens(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    command("discover", "--help")
    assert len(capsys.readouterr().out.splitlines()) <= 110


def test_frequent_options_have_short_names(capsys):
    command("discover", "no-such-task", "-n", 3, "-m", "eap", "-o", "somewhere", code=2)
    assert "there is no task 'no-such-task'" in capsys.readouterr().err
    assert {"method", "n"} <= set(QuestionOptions.__dataclass_fields__)
    assert "out" in Written.__dataclass_fields__


def test_the_doctor_names_versions_devices_caches_and_what_is_missing(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pygraphviz" else find(name, *more)
    )
    command("doctor")
    shown = capsys.readouterr().out
    for fact in ("transformer-lens", "threads", "cache of models", "offline"):
        assert fact in shown
    assert "pygraphviz missing: pip install 'mech-circuits[viz]'" in shown


def test_ctrl_c_names_the_command_that_continues(tmp_path, monkeypatch, capsys):
    def stop(*given, **options):
        raise KeyboardInterrupt

    a_place(tmp_path / "place")
    monkeypatch.setattr(discover, "discover", stop)
    with chdir(tmp_path / "place"):
        asked = (
            "discover",
            "PAIRS.jsonl",
            "--model",
            GOLDEN_MODEL,
            "--method",
            "coar",
            "--samples",
            48,
            "--out",
            "a run",
        )
        command(*asked, "--overwrite", code=130)
        shown = capsys.readouterr().err
        assert (
            f"to continue: circuits discover PAIRS.jsonl --model {GOLDEN_MODEL} --method coar --samples 48 --out 'a run' --resume"
            in shown
        )
        command(*asked[:4], "--method", "eap", code=130)
        assert "to continue" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "digits"),
    [([2.6, 0.1], 4), ([3.2e-5, 0.0], 7), ([None, float("nan")], 4), ([0.0], 4), ([1e-30], 15), ([12345.0], 4)],
)
def test_small_effects_are_shown_with_three_digits(values, digits):
    assert _digits(values, 4) == digits
