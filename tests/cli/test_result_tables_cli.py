"""The tables that `circuits discover` prints."""

import json

import pytest

from tests.command import CASE, GOLDEN, command, write_pairs


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    pairs = write_pairs(json.loads((GOLDEN / CASE / "case.json").read_text()), tmp_path_factory.mktemp("x") / "p.jsonl")
    return ["discover", pairs, "--model", GOLDEN / CASE / "model", "--n", "4", "--random-circuits", "1", "--overwrite"]


def test_a_search_for_a_number_of_edges_prints_the_threshold_and_no_standard_errors(asked, tmp_path, capsys):
    command(*asked, "--method", "acdc", "--edges", "9", "--out", tmp_path / "run")
    shown = capsys.readouterr().out
    assert "threshold found" in shown
    assert "std. error" not in shown
    assert "faithfulness of 1 random circuit " in shown


def test_scores_print_their_standard_errors(asked, tmp_path, capsys):
    command(*asked, "--method", "eap", "--edges", "9", "--out", tmp_path / "run")
    assert "std. error" in capsys.readouterr().out
