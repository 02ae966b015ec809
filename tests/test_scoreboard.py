"""The scoreboard's study files can be read, and its p values are those of an exact test with the stated error rate."""

import argparse
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from circuits.study.spec import parse_study

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import scoreboard
import scoreboard_tables as tables


def arguments(directory, **changed):
    given = {"pairs": 8, "fresh": 8, "directory": directory, "tasks": list(scoreboard.SMOLLM2_TASKS), "methods": []}
    return argparse.Namespace(**{**given, **changed})


@pytest.mark.parametrize("gives", tables.GIVES)
@pytest.mark.parametrize("suite", ["compiled", "smollm2"])
def test_every_method_of_a_suite_is_in_one_of_its_two_studies(suite, gives, tmp_path):
    requests = parse_study(scoreboard.study(suite, gives, arguments(tmp_path))).requests
    labels = {request.label for request in requests}
    left_out = scoreboard.SLOW if suite == "smollm2" else ()
    wanted = {
        name
        for name, one in scoreboard.METHODS.items()
        if (one["method"] in scoreboard.CIRCUITS) == (gives == "circuit")
    }
    assert labels == wanted - {*left_out}
    assert len({(request.model, request.task) for request in requests}) == (8 if suite == "smollm2" else 10)
    assert {part for request in requests for part in request.evaluation["parts"]} >= {
        "faithfulness" if gives == "circuit" else "curves"
    }


def test_p_values_are_shares_of_all_signs():
    differences = [0.5, -0.1, 0.3, 0.2, 0.4]
    sums = [abs(sum(d * s for d, s in zip(differences, signs, strict=True))) for signs in product((1, -1), repeat=5)]
    wanted = sum(one >= abs(sum(differences)) - 1e-12 for one in sums) / len(sums)
    assert tables.sign_flip_p(differences) == pytest.approx(wanted)
    assert tables.sign_flip_p([0.0] * 8) == 1.0


def test_where_methods_are_alike_at_most_five_percent_of_the_p_values_are_below_five_percent():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(5000, 8, generator=generator) * torch.rand(
        5000, 8, generator=generator
    )  # spreads differ by task
    signs = torch.tensor(list(product((1.0, -1.0), repeat=8)))
    sums = (draws @ signs.T).abs()
    p = (sums >= sums[:, :1] - 1e-6).double().mean(1)
    assert p[:10].tolist() == pytest.approx([tables.sign_flip_p(row) for row in draws[:10].tolist()])
    assert 0.03 < float((p <= 0.05).double().mean()) < 0.055


def test_tables_name_every_method_and_compare_with_the_default(capsys):
    rows = [
        {"model": "m", "task": task, "method": method, "seconds": 1.0, "edges": 5, "cpr": 1.0, "cmd": 0.1 + 0.1 * worse, "cmd_interval": [0, 1],
         "cpr_interval": [0, 1], **{f"f{share}": 0.5 for share in tables.SHARES}}
        for task in "abcde" for method, worse in (("EAP-IG", 0), ("EAP", 1))
    ]  # fmt: skip
    tables.print_suite(
        "smollm2",
        [*rows, {"model": "m", "task": "a", "method": "ACDC", "seconds": 9.0, "edges": 7, "f own": 0.25}],
        list(scoreboard.METHODS),
    )
    printed = capsys.readouterr().out
    assert "| EAP | 5 | +0.100, 0.062 | +0.000, 1.000 | +0.000, 1.000 |" in printed
    (acdc,) = (line for line in printed.splitlines() if line.startswith("| ACDC"))
    assert "| 0.25 | 7 |" in acdc
