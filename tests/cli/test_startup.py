"""The command line is thin and quick: commands are short, and what they refuse, they refuse before torch is imported."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

COMMANDS = Path(__file__).parents[2] / "circuits" / "cli"
MOST_LINES = 25
PAIRS = '{"clean": [1, 2], "corrupted": [1, 3], "answers": [1], "distractors": [2]}\n'
STUDY = 'models = ["smollm2-135m"]\ntasks = ["ioi"]\n[methods.eap]\n'
FILES = {
    "TAKEN/thesis.tex": "", "pairs.jsonl": PAIRS, "circuit.json": "{", "there.dot": "", "labels.toml": "x = 1",
    "no-task.toml": STUDY.replace("ioi", "ioj"), "no-method.toml": STUDY.replace("methods.eap", "methods.eapp"),
    "no-option.toml": f"{STUDY}stpes = 2\n", "no-metric.toml": f'metrics = ["nope"]\n{STUDY}', "study.toml": STUDY,
    "no-mean.toml": f'reference = "pairs.jsonl"\n{STUDY}', "no-columns.toml": f'columns = "clean=a"\n{STUDY}',
    "no-parts.toml": f'{STUDY}[evaluation]\nparts = ["nope"]\n', "no-dtype.toml": f'dtype = "float8"\n{STUDY}',
}  # fmt: skip
REFUSED = """
discover ioi --method nope
discover ioi --model ./nodir
discover ioj
discover nowhere.jsonl
discover ioi --metric nope
discover ioi --ablation nope
discover ioi --edgs 3
discover ioi --n 0
discover ioi --config nowhere.toml
discover ioi --dtype float8
discover ioi --memory much
discover ioi --method atp-star --nodes hads
discover ioi --method edge-pruning --objective rank
discover ioi --method path-patching
discover ioi --method acdc --threshold 1 --edges 3
discover ioi --method eap --threshold 1 --edges 3
discover ioi --method eap --select nope
discover ioi --method eap --steps 3
discover ioi --method coar --alpha 2
discover ioi --noise-tokens S
discover ioi --reference pairs.jsonl
discover ioi --ablation zero --reference pairs.jsonl
discover ioi --ablation mean --reference nowhere.jsonl
discover ioi --ablation gaussian --seed 9999999999999
discover ioi --out TAKEN
discover ioi --out TAKEN --overwrite
discover ioi --out pairs.jsonl
discover ioi --out UNFINISHED --method coar
discover ioi --resume
discover ioi --workers 2
discover ioi --on localhost:1
discover ioi --method coar --on localhost:1
evaluate nowhere
evaluate TAKEN
evaluate TAKEN --parts nope
evaluate TAKEN --ablations nope
evaluate TAKEN --pairs nope
inspect nope ioi
inspect kinds ioj
inspect terms ioi --nodes a1.h0
inspect terms ioi --nodes a1.h0,a1.h1 --key IO
inspect lens ioi --nodes a1.h0
inspect neurons ioi
inspect direct ioi --n 0
inspect direct ioi --model ./nodir
describe nowhere
describe TAKEN
describe TAKEN --draws 5
compare TAKEN
compare TAKEN nowhere
compare TAKEN TAKEN --alphas x
compare TAKEN TAKEN --alphas 2
compare TAKEN TAKEN --ablation nope
compare TAKEN TAKEN --by nope
export nowhere --out a.dot
export TAKEN --out a.dot
export circuit.json --out a.xyz
export circuit.json --to nope --out a.dot
export circuit.json --out there.dot
export circuit.json --out a.dot --dpi 100
export circuit.json --out a.dot --labels nowhere.toml
export circuit.json --out a.dot --labels labels.toml
view nowhere
view TAKEN
view circuit.json nowhere
report nowhere
report TAKEN
mib discover nope --model gpt2 --out m
mib discover ioi --model gpt2 --out m --method acdc
mib discover ioi --model gpt2 --out m --level edges
mib discover ioi --model gpt2 --out m --split tests
mib discover ioi --model gpt2 --out m --data nowhere
mib discover ioi --model ./nodir --out m
mib discover ioi --model gpt2 --out m --method eap --steps 3
mib evaluate nowhere
mib evaluate circuit.json
mib evaluate circuit.json --task ioi --model gpt2 --rule nope
mib evaluate nowhere.pt --task ioi --model gpt2
mib submit nowhere
mib submit TAKEN --as-circuits
study run nowhere.toml --out s
study run no-task.toml --out s
study run no-method.toml --out s
study run no-option.toml --out s
study run no-metric.toml --out s
study run no-parts.toml --out s
study run no-mean.toml --out s
study run no-columns.toml --out s
study run no-dtype.toml --out s
study run study.toml --out TAKEN
study run study.toml --out s --divide-runs
study run study.toml --out s --workers 2
study run study.toml --out s --on localhost:1
study status TAKEN
study table TAKEN
study table TAKEN --out x.txt
study report nowhere
dictionary train nowhere.3 --out D
dictionary train mlp_out.3 --out TAKEN
dictionary train mlp_out.3 --out TAKEN --resume
dictionary train mlp_out.3 --out D --features 8 --k 9
dictionary train mlp_out.3 --out D --tokens many
dictionary train mlp_out.3 --out D --text nowhere.txt
dictionary train mlp_out.3 --out D --skip
dictionary train mlp_out.3 transcoder.3 --out D
dictionary train mlp_out.3 --out D --model ./nodir
dictionary show nowhere
dictionary show TAKEN
tasks check ioj
tasks show ioj
tasks show ioj(order=ABBA)
tasks show ioi(order
tasks check nowhere.jsonl
tasks check ioi --dtype float8
models fetch nope
models memory smollm2-135m --dtype float8
models memory smollm2-135m --n 0
tasks nope
"""
PROGRAM = """
import json, sys
from circuits.cli import main

outcomes = []
for line in sys.stdin.read().strip().splitlines():
    sys.argv = ["circuits", *line.split()]
    try:
        main()
    except SystemExit as end:
        code = end.code
    outcomes.append((line, code, "torch" in sys.modules))
print("OUTCOMES", json.dumps(outcomes))
"""


def outcomes(lines: str, place: Path, **variables: str) -> list[tuple[str, int, bool]]:
    """For each command, run one after the other in a new process: its exit code, and whether torch was imported by then."""
    root = str(COMMANDS.parents[1])
    path = os.pathsep.join([*([variables.pop("PYTHONPATH")] if "PYTHONPATH" in variables else []), root])
    given = {**os.environ, "MECH_CIRCUITS_CACHE": str(place / "cache"), **variables, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=lines, cwd=place, env=given, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.rpartition("OUTCOMES ")[2])


def test_what_is_refused_is_refused_before_torch_is_imported(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".UNFINISHED.unfinished").mkdir()
    slow = [(line, code) for line, code, heavy in outcomes(REFUSED, tmp_path) if code != 2 or heavy]
    assert slow == []


def commands() -> list[tuple[str, ast.FunctionDef]]:
    """Functions that are commands: those with a decorator of typer's or `grouped`, and those that `circuits.cli` adds by name."""
    added = {"discover", "evaluate", "describe", "compare", "export", "view", "report"}
    result = []
    for path in sorted(COMMANDS.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                decorators = {ast.unparse(one).partition("(")[0].rpartition(".")[2] for one in node.decorator_list}
                if decorators & {"command", "callback", "grouped"} or (path.stem == node.name and node.name in added):
                    result.append((f"{path.stem}.{node.name}", node))
    return result


def test_commands_are_short():
    """Parse, call, print: at most 25 lines after the signature and the docstring."""
    result = commands()
    assert len(result) >= 16
    lengths = {}
    for name, node in result:
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        lengths[name] = (body[-1].end_lineno or 0) - body[0].lineno + 1
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


METHOD = """
import torch

from circuits.methods.method import Method
from circuits.methods.options import CHOICE, RANDOM_CIRCUITS, Kind, Option

METHOD = Method(
    name="scaled",
    function=lambda question, *, strength: None,
    gives="edges",
    help="{help}",
    takes=(Option("strength", Kind.NUMBER, 2.0, "What scores are multiplied by.", above=0), *CHOICE, RANDOM_CIRCUITS),
)
"""


def test_the_declaration_of_a_method_of_another_package_is_remembered(tmp_path):
    """It is imported once, and again when its source changes; a damaged copy is as good as none."""
    site = tmp_path / "site"
    (site / "scaling").mkdir(parents=True)
    (site / "scaling" / "__init__.py").touch()
    (site / "scaling-1.0.dist-info").mkdir()
    (site / "scaling-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: scaling\nVersion: 1.0\n")
    (site / "scaling-1.0.dist-info" / "entry_points.txt").write_text(
        "[circuits.methods]\nscaled = scaling.method:METHOD\n"
    )
    asked = "discover --help\ndiscover ioi --method scaled --strength -1\n"
    for text, heavy in (("one", True), ("one", False), ("another", True), ("another", False), (None, True)):
        if text is not None:
            (site / "scaling" / "method.py").write_text(METHOD.format(help=text))
        else:
            (tmp_path / "cache" / "scaled.method.json").write_text('{"source": 3}')
        got = outcomes(asked, tmp_path, PYTHONPATH=str(site))
        assert [code for _, code, _ in got] == [0, 2]
        assert [imported for *_, imported in got] == [heavy, heavy]
