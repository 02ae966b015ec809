"""What stands on a terminal."""

import pytest

from circuits.cli.terminal import stage


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_on_a_narrow_terminal_the_note_gives_way_and_the_times_stay(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    with stage("runs") as report:
        report(47, 48, "coar on a-task-of-a-long-name in a-model-of-a-long-name, seed 1, " * 3)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "47/48 0:00:0" in last
    assert last.endswith("…")
    assert len(last) <= columns
