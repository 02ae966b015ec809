"""Every shell command of the README and the documentation runs as it is written, on the task that it names.

The model is `narrow_smollm2` of conftest.py, so that nodes and prompts are those of a reader. Numbers that only cost time are made smaller, see `SMALLER`.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import circuits
import tasks

pytestmark = pytest.mark.real_model
ROOT = Path(__file__).parents[1]
PAGES = {str(page.relative_to(ROOT)): page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
NOT_RUN = {
    "make demo": "what it runs is in the Makefile and takes minutes; its commands are run here one by one, from other pages",
    "make test": "it would run this test",
    "make setup": "it installs",
    "pip install .": "it installs",
    ". .venv/bin/activate": "it belongs to a shell",
    "python docs/path_patching_ioi.py": "three minutes; tests/test_path_patching_example.py runs it on a small model",
    "circuits models memory meta-llama/Llama-3.1-8B --dtype bfloat16 --tokens 20": "needs the hub",
    "circuits discover pairs.jsonl --model meta-llama/Llama-3.1-70B --device-map auto --dtype bfloat16": "needs the hub",
}
"""Commands that are not run, and why."""
SMALLER = [
    (r" --on ray --workers \d", ""),  # tests/workers/test_ray.py runs with Ray
    (r"--method acdc --threshold 0.02", "--method acdc --threshold -0.1"),  # so that some edges stay
    # ACDC tests few of the 70,651 edges: those of a circuit that is there already, or those into the last layer.
    (r"--method acdc --threshold ", r"--start-circuit runs/start/circuit.json \g<0>"),
    (r"--method acdc --edges ", r"--start-layer 29 \g<0>"),
    (r"--method coar(?! --samples)", "--method coar --samples 40 --fit ridge"),
    (r"--samples 5000", "--samples 40 --fit ridge"),
    (r"--samples 2000", "--samples 310"),  # more than components: the fit by default
    (r"--samples 200 ", "--samples 20 "),
    (r"--steps 300", "--steps 3"),
    (r"--refine-top 100", "--refine-top 10"),
    (r"--edges 200 --out runs/ioi", "--edges 120 --out runs/ioi"),
    (r"^circuits study run docs/studies/induction.toml", "circuits study run docs/studies/small.toml"),
    (r"^circuits evaluate runs/ioi --pairs ioi --n 32", r"\g<0> --parts completeness,scores,recovery"),
    (r"^circuits dissociate ", r"\g<0>--random-circuits 2 "),
    (r"^circuits evaluate ", r"\g<0>--random-circuits 2 "),
    (
        r"^circuits dictionary train .*",
        r"\g<0> --features 64 --k 4 --tokens 400 --context 12 --batch-size 4 --buffer 96 --step 64 --passes 1 --held-out 2",
    ),
    (r"--n (?:4|8|16|32)\b", "--n 2"),
    (r"--senders heads --n \d+", "--senders heads --n 1"),
    (r"^circuits discover (?!.*(--n |--config|pairs\.jsonl|PAIRS\.jsonl))", r"\g<0>--n 2 "),
    (r"^circuits discover (?!.*--method (?!eap|acdc|edge-|information))", r"\g<0>--random-circuits 1 "),
]
"""What is written otherwise here; each must apply to some command."""
SMALLER_STUDY = [
    (', "changed.jsonl", "short.jsonl"', ""),
    ("seeds = [0, 1]", "seeds = [0]"),
    ("n = 16", "n = 4"),
    ("400", "40"),
]
PREPARED = """
circuits discover ioi --n 2 --method eap --edges 50 --random-circuits 0 --out runs/start
circuits discover ioi --n 2 --edges 50 --random-circuits 0 --out runs/ioi
circuits discover ioi --n 2 --method eap --edges 50 --random-circuits 0 --out runs/ioi-eap
circuits discover ioi --n 2 --method acdc --threshold -0.1 --start-circuit runs/start/circuit.json --out runs/ioi-acdc
circuits discover ioi --n 2 --method coar --samples 40 --fit ridge --out runs/ioi-coar
"""
"""Runs that pages take for granted."""


def commands(page: Path) -> list[str]:
    """The commands of a page's shell blocks, one line each, without comments."""
    blocks = re.findall(r"^```(?:sh|bash|console|shell)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    bare = [" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines]
    return [line for line in bare if line]


def smaller(command: str) -> str:
    for written, instead in SMALLER:
        command = re.sub(written, instead, command)
    return command


COMMANDS = {name: typed for name, page in PAGES.items() if (typed := commands(page))}
ALL = [command for typed in COMMANDS.values() for command in typed]


@pytest.fixture(scope="module")
def place(narrow_smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the pages' commands can be typed."""
    place = tmp_path_factory.mktemp("workplace")
    pairs = tasks.load("ioi").pairs(circuits.load_model(str(narrow_smollm2)), 3)
    assert len({len(prompt) for prompt in pairs.clean}) > 1
    for name in ("pairs.jsonl", "PAIRS.jsonl", "mine.jsonl", "prompts.jsonl"):
        pairs.to_jsonl(place / name)
    _write_dictionaries(place, int(circuits.load_model(str(narrow_smollm2)).bridge.cfg.d_model))
    (place / "path/to").mkdir(parents=True)
    for name in ("path/to/model", "DIR"):
        (place / name).symlink_to(narrow_smollm2)
    shutil.copytree(ROOT / "docs", place / "docs", ignore=shutil.ignore_patterns("*.png", "*.md"))
    (place / "mine.csv").write_text(
        "clean,corrupted,answers,distractors\nThe keys near the door,The key near the door, are, is\n"
        "The cars near the boy,The car near the boy, are, is\n"
    )
    (place / "capitals.csv").write_text(
        "prompt,other,capital\nThe capital of France is,The capital of Japan is,Paris\n"
        "The capital of Spain is,The capital of Japan is,Madrid\n"
    )
    facts = [
        {"prompt": "The mother tongue of Danielle Darrieux is", "subject": "Danielle Darrieux", "attribute": "French"},
        {
            "prompt": "The official religion of Edwin of Northumbria is",
            "subject": "Edwin of Northumbria",
            "attribute": "Christianity",
        },
    ]
    (place / "known_1000.json").write_text(json.dumps(facts))
    (place / "study.toml").write_text('method = "eap"\nedges = 20\n')
    (place / "roles.toml").write_text('[labels]\n"m0" = "first MLP"\n')
    study = (ROOT / "docs/studies/induction.toml").read_text()
    for written, instead in SMALLER_STUDY:
        assert written in study
        study = study.replace(written, instead)
    (place / "docs/studies/small.toml").write_text(study)
    return place


def _write_dictionaries(place: Path, d_model: int) -> None:
    """Transcoders with random weights, in the files of Gemma Scope."""
    draw = np.random.default_rng(0)
    for layer in (15, 23):
        sizes = {
            "W_enc": (d_model, 16),
            "b_enc": (16,),
            "W_dec": (16, d_model),
            "b_dec": (d_model,),
            "threshold": (16,),
        }
        np.savez(place / f"layer{layer}.npz", **{name: draw.random(size).astype("f4") for name, size in sizes.items()})


@pytest.fixture(scope="module")
def outcomes(narrow_smollm2: Path, place: Path) -> dict[str, str]:
    """What was wrong with each command, by command: the runs that pages take for granted, then page after page."""
    wanted = {command: smaller(command) for command in ALL if command not in NOT_RUN}
    prepared = PREPARED.strip().splitlines()
    lines = list(prepared)
    for line in (wanted[command] for command in ALL if command in wanted):
        if line not in lines or " --out " in line:  # again, as another may have written there meanwhile
            lines.append(line)
    asked = {"place": str(place), "model": str(narrow_smollm2), "lines": lines}
    # In a process of its own, without the checks of shapes, which would take most of the time.
    done = subprocess.run(
        [sys.executable, "-m", "tests.typed_commands"],
        cwd=ROOT,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    problems: dict[str, str] = {}
    for line, problem in zip(lines, json.loads((place / "problems.json").read_text()), strict=True):
        problems[line] = problems.get(line) or problem
    assert not any(problems[line] for line in prepared), problems
    return {command: problems[line] for command, line in wanted.items()}


@pytest.mark.parametrize("page", COMMANDS)
def test_the_commands_of_a_page_run(page: str, outcomes: dict[str, str]) -> None:
    assert {command: outcomes[command] for command in COMMANDS[page] if outcomes.get(command)} == {}


@pytest.mark.parametrize("command", NOT_RUN)
def test_commands_that_are_not_run_are_documented(command: str) -> None:
    assert command in ALL


@pytest.mark.parametrize("written", [written for written, _ in SMALLER])
def test_what_is_made_smaller_is_documented(written: str) -> None:
    assert any(re.search(written, command) for command in ALL)
