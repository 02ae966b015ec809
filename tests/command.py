"""Running `circuits` commands in this process, as the shell would run them; and runs of golden cases to run them on."""

import json
import shutil
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

from circuits import cli
from circuits.cli import main

GOLDEN = Path(__file__).with_name("golden")
CASE = "acdc_2l2h_kl"
GOLDEN_MODEL = GOLDEN / CASE / "model"


def exit_code(*arguments: object) -> int:
    """The exit code of `circuits ARGUMENTS`."""
    with patch.object(sys, "argv", ["circuits", *map(str, arguments)]):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def write_pairs(case, path):
    rows = zip(case["clean"], case["ablated"], case["answer"], case["distractor"], strict=True)
    lines = [json.dumps({"clean": c, "corrupted": x, "answers": [a], "distractors": [d]}) for c, x, a, d in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(monkeypatch, given):
    monkeypatch.setattr(sys, "argv", ["circuits", *given])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def discovered(monkeypatch, folder, name, method, *more):
    case = json.loads((GOLDEN / CASE / "case.json").read_text())
    pairs = write_pairs(case, folder / "PAIRS.jsonl")
    given = [
        "discover", pairs, "--model", GOLDEN / CASE / "model", "--method", method, "--metric", "logit_difference",
        "--dtype", "float64", "--out", folder / name, *more,
    ]  # fmt: skip
    assert run(monkeypatch, [str(argument) for argument in given]) == 0
    return str(folder / name)


def performed(*given, code=0):
    """What `circuits GIVEN` prints: its standard output and its standard error."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        command(*given, code=code)
    return out.getvalue(), err.getvalue()


def discovered_in(folder, name, method, *more):
    """`discovered`, for fixtures of a module."""
    with pytest.MonkeyPatch.context() as patch:
        return discovered(patch, folder, name, method, *more)


def command(*given, code=0):
    """Runs `circuits …` here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["circuits", *map(str, given)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert (stopped.value.code or 0) == code, f"circuits {' '.join(map(str, given))}: exit code {stopped.value.code}"


def discover(*more, code=0):
    command(
        "discover", "PAIRS.jsonl", "--model", GOLDEN / CASE / "model", "--metric", "logit_difference", "--dtype", "float64",
        "--out", "RUN", *more, code=code,
    )  # fmt: skip


def a_place(place):
    place.mkdir(parents=True)
    write_pairs(json.loads((GOLDEN / CASE / "case.json").read_text()), place / "PAIRS.jsonl")


def finished(folder, *more):
    """Makes places that hold the same finished run."""
    a_place(folder)
    with chdir(folder):
        discover(*more)
    return partial(shutil.copytree, folder)
