"""What a small file can cost: memory in proportion, and no waiting."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from circuits import Graph, InputError
from circuits.files.untrusted import parse_json
from circuits.results.circuit_file import FIELDS

BOMBS = Path(__file__).with_name("bombs.py")
SPARE = 32 * 2**20
"""Bytes beyond ten times the file: the parsers' own, and what the allocator rounds up to."""


@pytest.fixture(scope="module")
def peaks():
    """Every bomb in a process of its own, which the system would stop at four gigabytes; a hang is killed."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc")
    done = subprocess.run([sys.executable, str(BOMBS)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_bomb_takes_more_than_ten_times_its_size(peaks):
    assert len(peaks) > 150
    much = [row for row in peaks if row["rise"] > 10 * row["bytes"] + SPARE]
    assert much == []


def test_what_is_valid_takes_ten_times_its_size_when_it_is_large(peaks):
    much = [row for row in peaks if row["reader"] == "alone" and row["rise"] > 10 * row["bytes"] + SPARE / 8]
    assert [row for row in much if row["bytes"] > 2**22] == []
    assert sum(row["bytes"] > 2**22 for row in peaks) >= 4


def test_no_bomb_makes_anybody_wait(peaks):
    """The slowest takes half a second; the bound is for a machine under load."""
    assert [row for row in peaks if row["seconds"] > 10] == []


SMALL_PARTS = {"lists": "[],", "objects": "{},", "entries": '{"a":1},', "strings": '"ab",'}


@pytest.mark.parametrize("part", SMALL_PARTS.values(), ids=SMALL_PARTS)
def test_large_files_of_small_parts_are_refused_before_they_are_read(part):
    with pytest.raises(InputError, match="so many small parts"):
        parse_json("[" + part * (2**22 // len(part)) + "0]", FIELDS)


def test_large_files_of_different_keys_are_refused_before_they_are_read():
    with pytest.raises(InputError, match="so many small parts"):
        parse_json("{" + ",".join(f'"{i:x}":1' for i in range(400_000)) + "}", FIELDS)


@pytest.mark.parametrize("indent", [None, 1])
def test_large_files_of_edges_are_not_refused(indent):
    """Edges that say as little as possible, as our writer and others have them; EAP-IG's of GPT-2 small."""
    edge = {"source": "m0", "target": "m1", "key": "in"}
    text = json.dumps([edge] * 50_000, indent=indent)
    assert len(parse_json(text, FIELDS)) == 50_000
    gpt2 = Graph(12, 12, 12, (True,) * 12)
    names = json.dumps({name: {"score": 0.0, "in_graph": True} for name in gpt2.edges}, indent=indent)
    assert len(parse_json(names, ("score", "in_graph"))) == gpt2.n_edges == 32_491
