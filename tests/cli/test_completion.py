"""What the shell offers at the Tab key: `_CIRCUITS_COMPLETE` and the words typed so far, as its completion script passes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from circuits import plugins, zoo
from circuits.export.catalogue import FORMATS
from circuits.methods import catalogue
from circuits.runs.parts import PARTS

ROOT = Path(__file__).parents[2]
PROGRAM = """
import contextlib, io, json, os, sys
from circuits.cli import main

sys.argv, offered = ["circuits"], {}
for line in json.load(sys.stdin):
    words = line.split(" ")
    os.environ |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    offered[line] = out.getvalue().split()
print(json.dumps([offered, [name for name in ("torch", "transformers", "tasks") if name in sys.modules]]))
"""
OFFERED = {
    "circuits discover ": plugins.task_names(),
    "circuits discover gen": ["gendered-pronoun"],
    "circuits discover ioi --method ": catalogue.names(),
    "circuits discover ioi -m at": ["atp-star", "attribution-patching"],
    "circuits discover ioi --metric ": catalogue.metrics(),
    "circuits discover ioi --ablation ": list(catalogue.ablations()),
    "circuits discover ioi --model ": [*zoo.names(), *plugins.model_names()],
    "circuits discover ioi --gradient ig": ["ig", "ig-activations"],
    "circuits discover ioi --dtype fl": ["float16", "float32", "float64"],
    "circuits discover pairs.js": [],  # no name: the shell completes files
    "circuits evaluate ": ["alone", "runs/one", "runs/two"],
    "circuits evaluate runs/o": ["runs/one"],
    "circuits evaluate alone --parts ": list(PARTS),
    "circuits evaluate alone --ablations zero,m": ["zero,mean", "zero,mean_positional"],
    "circuits evaluate alone --pairs io": ["ioi"],
    "circuits evaluate nowhere/": [],
    "circuits inspect k": ["kinds"],
    "circuits inspect kinds io": ["ioi"],
    "circuits compare runs/one runs/t": ["runs/two"],
    "circuits view al": ["alone"],
    "circuits report al": ["alone"],
    "circuits export alone --to ": list(FORMATS),
    "circuits export runs": ["runs/one", "runs/two"],
    "circuits methods show ac": ["acdc", "activation-patching"],
    "circuits tasks check io": ["ioi"],
    "circuits tasks show compiled/i": ["compiled/induction"],
    "circuits models fetch ": list(zoo.names()),
    "circuits study status ": ["grid"],
    "circuits disc": ["discover"],
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What is offered for each line, and which heavy packages were imported."""
    place = tmp_path_factory.mktemp("place")
    for name in ("runs/one/run.json", "runs/two/run.json", "alone/run.json", "grid/study.toml", ".hidden/run.json"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    (place / "empty").mkdir()
    variables = {"_CIRCUITS_COMPLETE": "complete_bash", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(list(OFFERED)), cwd=place, env={**os.environ, **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_names_are_offered(answers):
    assert {line: sorted(names) for line, names in answers[0].items()} == {
        line: sorted(names) for line, names in OFFERED.items()
    }


def test_nothing_heavy_is_imported(answers):
    assert answers[1] == []


def test_zsh_shows_what_a_name_means(tmp_path):
    variables = {"_CIRCUITS_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "circuits discover --method acd"}
    program = "import sys; sys.argv = ['circuits']; from circuits.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert f'"acdc":"{catalogue.declared("acdc").help}"' in done.stdout
