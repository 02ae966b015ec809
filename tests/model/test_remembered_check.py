"""The check at loading runs once for the same weights and versions, and again for anything else."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import circuits
from circuits import ModelError, model, remembered_check, zoo
from circuits.errors import InputError
from tests.command import GOLDEN_MODEL
from tests.tiny_models import random_hf_model


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A model's directory, and an empty cache."""
    monkeypatch.setenv(zoo.CACHE_VARIABLE, str(tmp_path / "cache"))
    shutil.copytree(GOLDEN_MODEL, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def checks(monkeypatch):
    """Counts the checks."""
    made = []
    real = model.check
    monkeypatch.setattr(model, "check", lambda *given: made.append(given) or real(*given))
    return made


def change(place, name, by):
    path = place / "model.safetensors"
    times = path.stat()
    tensors = load_file(path)
    tensors[name] = by(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_same_weights_are_checked_once(place, checks):
    first, second = circuits.load_model(str(place)), circuits.load_model(str(place))
    assert len(checks) == 1
    assert (first.report.remembered, second.report.remembered) == (False, True)
    reported = [{row["name"]: row["value"] for row in one.rows()}["graph checked"] for one in (first, second)]
    assert reported == ["at loading", "before, with these weights and versions"]
    assert second.report == replace(first.report, remembered=True)


def test_one_changed_number_is_checked_again_even_if_size_and_time_are_as_before(place, checks):
    circuits.load_model(str(place))
    change(place, "transformer.h.0.mlp.c_fc.weight", lambda w: w.index_fill(0, torch.tensor([0]), 0.5))
    assert not circuits.load_model(str(place)).report.remembered
    assert len(checks) == 2


def test_weights_that_became_unusable_are_refused(place, checks):
    circuits.load_model(str(place))
    change(place, "transformer.h.0.mlp.c_fc.weight", lambda w: w * float("nan"))
    with pytest.raises(ModelError):
        circuits.load_model(str(place))
    with pytest.raises(ModelError):  # a failure is not remembered
        circuits.load_model(str(place))


@pytest.mark.parametrize("change_of", ["config", "dtype", "version", "engine"])
def test_anything_else_that_the_check_depends_on_counts(place, checks, monkeypatch, change_of):
    circuits.load_model(str(place))
    dtype = "float64" if change_of == "dtype" else None
    if change_of == "config":
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 1e-4}))
    if change_of == "version":
        monkeypatch.setattr(remembered_check, "version", lambda name: "another")
    if change_of == "engine":
        monkeypatch.setattr(remembered_check, "_engine_source", lambda: "another")
    assert not circuits.load_model(str(place), dtype=dtype).report.remembered
    assert len(checks) == 2


def test_objects_are_always_checked(place, checks):
    for _ in range(2):
        assert not circuits.load_model(random_hf_model("gpt2")).report.remembered
    assert len(checks) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: "[]",
        lambda text: text.replace("true", "1", 1),
        lambda text: text.replace('"key": "', '"key": "0'),
    ],
)
def test_a_damaged_memory_is_as_none(place, checks, damage):
    circuits.load_model(str(place))
    (kept,) = (zoo.cache_dir() / "checks").iterdir()
    text = kept.read_text()
    assert damage(text) != text
    kept.write_text(damage(text))
    assert not circuits.load_model(str(place)).report.remembered


def test_a_cache_that_cannot_be_written_is_no_failure(place, checks, monkeypatch):
    def refuse(*given):
        raise InputError("the disk is full")

    monkeypatch.setattr(remembered_check, "write_text", refuse)
    for _ in range(2):
        assert not circuits.load_model(str(place)).report.remembered
