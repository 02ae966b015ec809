"""`--memory`: what is expected is reported before the work starts."""

from tests.command import GOLDEN_MODEL, exit_code


def test_the_expected_memory_is_reported_if_a_budget_is_given(tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"clean": [1, 2], "corrupted": [1, 3], "answers": [1], "distractors": [2]}\n')
    ask = ["discover", pairs, "--model", GOLDEN_MODEL, "--method", "eap", "--edges", 3, "--random-circuits", 0]
    assert exit_code(*ask, "--memory", "1GB", "--out", tmp_path / "a") == 0
    assert "GB besides the weights (1 pairs at a time)" in capsys.readouterr().err
    assert exit_code(*ask, "--out", tmp_path / "b") == 0
    assert "besides the weights" not in capsys.readouterr().err


def test_what_is_no_memory_is_refused(tmp_path, capsys):
    assert exit_code("discover", "ioi", "--memory", "much", "--out", tmp_path / "a") == 2
    assert "memory must be an amount such as 4GB" in capsys.readouterr().err
