"""Files that once made a traceback, or had somebody wait, made small; each is refused in words."""

import json
import warnings

import pytest

from tests.hostile.bombs import EDGE, eap_ig, node_link, scores
from tests.hostile.readers import EVALUATION, LINES, READERS, run_directory, tried

DEEP = '{"a":' * 500 + "1" + "}" * 500
LARGE_NUMBER = str(10**400)


def edges(**changes):
    return json.dumps(node_link(edges=[{**EDGE, **changes}])).encode()


def provenance(text):
    whole = json.dumps(node_link(edges=[EDGE]))
    return whole.replace('"provenance": {}', f'"provenance": {text}').encode()


CRASHERS = {
    "circuit": {
        "a score beyond floating point": edges(score=10**400),
        "a standard error beyond floating point": edges(stderr=10**400),
        "a key that does not go with its target": edges(target="a0.h0<q>"),
        "a provenance too deep to be written again": provenance(DEEP),
        "half a character, which no file can hold": provenance('{"task": "\\ud800"}'),
        "a provenance that says something twice": provenance('{"task": 1, "task": 2}'),
    },
    "eap-ig": {
        "a score beyond floating point": eap_ig(edges={"input->m0": {"score": 10**400, "in_graph": True}}),
        "heads that share one key, of a graph too large": eap_ig(
            cfg={"n_layers": 100, "n_heads": 100, "n_key_value_heads": 1, "parallel_attn_mlp": False}
        ),
    },
    "edge-scores": {
        "a thousand million prompts": scores(n_prompts="1000000000"),
        "a provenance too deep to be written again": scores(provenance=DEEP),
        "half a character": scores(provenance='{"task": "\\ud800"}'),
    },
    "steps": {
        "bytes that are no text": b'{"writer": null, "reader": "\xff"}\n',
        "a change beyond floating point": f'{{"writer": null, "reader": "m1", "change": {LARGE_NUMBER}, "kept": true}}\n'.encode(),
        "lists in lists": b"[" * 100_000,
    },
    "pieces": {"lists in lists": b"[" * 100_000},
    "config": {
        "digits": b"n = " + b"9" * 5000,
        "hexadecimal digits": b"n = 0x" + b"f" * 5000,
        "an infinite number of pairs": b"n = inf",
        "no number of pairs": b"n = nan",
        "a NUL in a name": b'out = "a\\u0000b"',
        "a key of many parts": b"a." * 30_000 + b"a = 1",
    },
    "labels": {"hexadecimal digits": b"[groups]\na = [0x" + b"f" * 5000 + b"]"},
    "run": {
        "a model that is no text": json.dumps({"schema": 1, "provenance": {"model": {"a": 1}}}).encode(),
        "options that are a list": json.dumps({"schema": 1, "provenance": {}, "options": [1]}).encode(),
        "versions that are a number": json.dumps({"schema": 1, "provenance": {"versions": 3}}).encode(),
    },
    "run-prompts": {"a pair that is a number": b"3\n", "no pair": b"{}\n"},
    "evaluation": {
        "nothing": b"{}",
        "a list": b"[]",
        "faithfulness that is a text": json.dumps({**EVALUATION, "faithfulness": "x"}).encode(),
        "digits": b"9" * 5000,
    },
    "prompts": {"a key twice, behind many others": b'{"clean": 1, ' + b'"a": 1, ' * 50_000 + b'"clean": 2}'},
}
CASES = [(reader, name) for reader, crashers in CRASHERS.items() for name in crashers]


@pytest.mark.parametrize(("reader", "name"), CASES, ids=lambda value: value)
def test_what_crashed_once_is_refused(reader, name, tmp_path):
    assert tried(READERS[reader], CRASHERS[reader][name], tmp_path)


def test_what_took_the_square_of_its_size_still_says_what_is_wrong(tmp_path):
    """How long it takes now is told by `bombs.py`."""
    line = {**LINES[1], "answers": list(range(700)), "distractors": list(range(699, 1400))}
    assert "an answer and a distractor" in tried(READERS["prompts"], json.dumps(line).encode(), tmp_path)


def test_a_run_that_does_not_say_its_model_is_told_so(tmp_path):
    from typer.testing import CliRunner

    from circuits.cli import app

    place = run_directory(tmp_path / "run")
    record = json.loads((place / "run.json").read_text())
    del record["provenance"]["model"]
    (place / "run.json").write_text(json.dumps(record))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(app, ["view", str(place)])
    assert "does not record its model" in str(result.exception)


def test_no_member_of_an_archive_leaves_its_directory(tmp_path):
    """The example holds a member `../outside`."""
    data = READERS["wheel"].files(tmp_path)[0]
    (tmp_path / "deep").mkdir()
    assert b"../outside" in data
    assert tried(READERS["wheel"], data, tmp_path / "deep") is None
    assert not (tmp_path / "outside").exists()
