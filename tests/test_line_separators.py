"""JSON lines end at line feeds alone: prompts may hold what Python's `splitlines` takes for the end of a line."""

import ast
import json
from contextlib import chdir
from pathlib import Path

import pytest

from circuits import InputError, PromptPairs
from circuits.export.tables import cell
from circuits.files.untrusted import MOST_DOTS, parse_toml
from circuits.report import _lines
from tests.command import a_place, command, discover

ENDS = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e"
SOURCES = Path(__file__).resolve().parent.parent / "circuits"


@pytest.mark.parametrize("raw", [True, False])
def test_a_run_on_prompts_with_line_separators_is_reported(raw, tmp_path):
    a_place(tmp_path / "place")
    with chdir(tmp_path / "place"):
        path = Path("PAIRS.jsonl")
        pairs = [json.loads(line) for line in path.read_text().split("\n") if line]
        for pair in pairs:
            pair |= {"clean_text": f"one{ENDS}two <b>", "corrupted_text": f"{ENDS}three"}
        written = [json.dumps(pair, ensure_ascii=not raw) for pair in pairs]
        path.write_text("\n".join(written) + "\n", encoding="utf-8", newline="\n")
        assert len(PromptPairs.from_jsonl(path)) == len(pairs)
        discover("--method", "eap", "--edges", 12, "--random-circuits", 0)
        assert len(_lines(Path("RUN", "pairs.jsonl"))) == len(pairs)
        for reader in (
            ("report", "RUN"),
            ("view", "RUN", "--no-attention"),
            ("export", "RUN", "--out", "c.json", "--to", "neuronpedia"),
        ):
            command(*reader)
        page = Path("report.html").read_text(encoding="utf-8")
        assert f"one{ENDS[0]}" in page
        assert "two &lt;b&gt;" in page


@pytest.mark.real_model
def test_a_prompt_given_as_text_may_have_another_text_for_display(smollm2, tmp_path):
    line = {
        "clean": "The keys near the door",
        "corrupted": "The key near the door",
        "answers": [" are"],
        "distractors": [" is"],
    }
    (tmp_path / "p.jsonl").write_text(json.dumps({**line, "clean_text": f"The keys{ENDS}"}) + "\n")
    pairs = PromptPairs.from_jsonl(tmp_path / "p.jsonl", smollm2)
    assert pairs.texts[0] == (f"The keys{ENDS}", "The key near the door")
    assert list(pairs.clean[0]) == smollm2.encode("The keys near the door")


def test_lines_of_toml_end_at_line_feeds_so_that_none_hides_its_dots():
    key = '"\u2028"' + ".a" * (MOST_DOTS // 2 + 1)
    with pytest.raises(InputError, match="line 1 has more than"):
        parse_toml(f"{key}.{key} = 1", "x.toml")
    assert parse_toml("a = '\u2028'\r\nb = 2\r\n", "x.toml") == {"a": "\u2028", "b": 2}


ALLOWED = {
    "model_bridge.py": "an error's message", "ray.py": "an error's message", "edge_memory.py": "an error's message",
    "metric_values.py": "an error's message",    "placement.py": "an error's message", "wheel.py": "what a program printed", "record.py": "lines of hexadecimal digits",
    "data.py": "an error's message", "hub.py": "an error's message",
}  # fmt: skip


def test_no_file_of_data_is_cut_with_splitlines():
    result = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "splitlines":
                result.add(path.name)
    assert result <= ALLOWED.keys()


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_of_a_table_begins_as_a_formula(begins):
    assert cell(f"{begins}1+1") == f"'{begins}1+1"
    assert [cell(value) for value in ("a=1", -1, 1.5, None, "", " =1")] == ["a=1", -1, 1.5, None, "", " =1"]
