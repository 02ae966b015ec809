"""Numbers that are not finite are refused in one line before a model is loaded; every option that is a number is tried."""

from contextlib import chdir
from inspect import signature
from pathlib import Path
from typing import get_args

import pytest

import circuits.model
from circuits import InputError
from circuits.cli import app
from circuits.methods.catalogue import METHODS
from circuits.runs import read
from tests.command import a_place, command

NEEDED = {"path-patching": {"receivers": ["logits"]}, "ensemble": {"gradients": ["ig", "gim"]}}
GIM = {"softmax_temperature", *(f"{part}_scale" for part in ("q", "k", "v", "gate", "up"))}
OTHERS = {"share": {"edges": 5, "select": "positive-share"}}


def test_all_options_that_are_numbers_are_tried_below():
    apps = [app, *(group.typer_instance for group in app.registered_groups)]
    callbacks = [result.callback for one in apps if one is not None for result in one.registered_commands]
    result = {
        parameter.name
        for callback in callbacks
        if callback is not None
        for parameter in signature(callback, eval_str=True).parameters.values()
        if (kinds := get_args(parameter.annotation)) and float in (kinds[0], *get_args(kinds[0]))
    }
    assert result == {"threshold", "share", "learning_rate", "alpha", "gpus_per_worker", "dpi", "core", "margin"} | GIM


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
@pytest.mark.parametrize(
    "given",
    [
        ("discover", "P", "--method", "eap", "--threshold"),
        ("discover", "P", "--method", "exact-edges", "--threshold"),
        ("discover", "P", "--method", "information-flow", "--threshold"),
        ("discover", "P", "--method", "eap", "--edges", 5, "--select", "positive-share", "--share"),
        ("discover", "P", "--method", "edge-pruning", "--learning-rate"),
        ("discover", "P", "--method", "gim", "--softmax-temperature"),
        ("discover", "P", "--method", "gim", "--q-scale"),
        ("discover", "P", "--method", "ugs", "--learning-rate"),
        ("discover", "P", "--method", "coar", "--alpha"),
        ("discover", "P", "--method", "coar", "--on", "ray", "--gpus-per-worker"),
        ("export", "RUN", "--out", "c.png", "--dpi"),
        ("compare", "RUN", "OTHER", "--alphas"),
        ("dissociate", "RUN", "OTHER", "--core"),
        ("dissociate", "RUN", "OTHER", "--margin"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_before_a_model_is_loaded(given, value, tmp_path, monkeypatch, capsys):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(circuits.model, "load_model", load)
    monkeypatch.setattr(read, "read_runs", lambda paths: [None, None])
    a_place(tmp_path / "place")
    with chdir(tmp_path / "place"):
        command(*given[:-1], f"{given[-1]}={value}", code=2)
        assert [path.name for path in Path().iterdir()] == ["PAIRS.jsonl"]
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert any(words in line for words in ("number", "between 0 and 1", "than or equal to"))


@pytest.mark.parametrize("method", METHODS)
def test_no_method_takes_a_number_that_is_not_finite(method):
    for name in METHODS[method].options:
        for value in (float("inf"), float("-inf"), float("nan")):
            asked = {**NEEDED.get(method, {}), **OTHERS.get(name, {}), name: value}
            if method == "acdc" and name == "threshold" and value == value:
                METHODS[method].check(asked)  # which removes every edge, or none
                continue
            if name == "runs":
                del asked["gradients"]
            if method == "acdc" and name != "edges":
                asked.setdefault("threshold", 0.1)
            with pytest.raises(InputError, match="number"):
                METHODS[method].check(asked)
