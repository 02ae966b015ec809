"""Where memory is wanting, one line says so, and a study goes on with its other runs."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
import torch
import transformers

import circuits
from circuits import cli
from circuits.errors import NO_MEMORY, lacks_memory
from circuits.methods import coar
from circuits.runs import discover
from circuits.study import StudyDirectory, parse_study, run_study

TEXT = """
models = ["compiled/or-gate"]
tasks = ["compiled/or-gate"]
n = 2
[methods.eap]
[methods.coar]
samples = 32
fit = "ridge"
"""
TOO_MUCH = {"torch": lambda: torch.empty(10**15), "Python": lambda: bytes(10**15)}


@pytest.fixture(params=TOO_MUCH.values(), ids=TOO_MUCH)
def exhausting(request):
    return lambda *_, **__: request.param()


def test_it_is_told_from_other_errors(exhausting):
    with pytest.raises((MemoryError, RuntimeError)) as failed:
        exhausting()
    assert lacks_memory(failed.value)
    assert lacks_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert lacks_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert lacks_memory(ImportError("libtorch_cpu.so: failed to map segment from shared object"))
    assert lacks_memory(RuntimeError("unable to mmap 9 bytes from file <m.safetensors>: Cannot allocate memory (12)"))
    assert lacks_memory(RuntimeError("can't start new thread"))
    assert not lacks_memory(ImportError("No module named 'ray'"))
    with pytest.raises(RuntimeError) as failed:
        torch.zeros(2) @ torch.zeros(3)
    assert not lacks_memory(failed.value)


def test_a_study_goes_on_without_the_run_that_lacked_it(tmp_path, monkeypatch, exhausting):
    monkeypatch.setattr(coar, "fit_linear", exhausting)
    out = StudyDirectory.begin(tmp_path)
    outcome = run_study(parse_study(TEXT), out)
    assert [(e.request.label, e.state, e.reason) for e in outcome.entries] == [
        ("eap", "done", None), ("coar", "failed", NO_MEMORY)
    ]  # fmt: skip
    assert json.loads(next((tmp_path / "failures").iterdir()).read_text())["trace"] is None
    monkeypatch.undo()
    assert run_study(parse_study(TEXT), out).states == {"done": 2}


def test_a_command_says_so(tmp_path, monkeypatch, capsys, exhausting):
    monkeypatch.setattr(discover, "discover", exhausting)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "circuits",
            "discover",
            "compiled/or-gate",
            "--model",
            "compiled/or-gate",
            "--n",
            "2",
            "--out",
            str(tmp_path / "run"),
        ],
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"circuits: {NO_MEMORY}"
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_fit(tmp_path, monkeypatch, exhausting):
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", exhausting)
    model = Path(__file__).parents[1] / "golden" / "acdc_2l2h_kl" / "model"
    with pytest.raises(circuits.ModelError, match=r"not enough memory to load '.*'; bfloat16"):
        circuits.load_model(str(model))
