"""Methods are declared once: the copy for the command line, the page in the docs, and a method of another package."""

import ast
import inspect
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from circuits import InputError
from circuits.methods import catalogue
from circuits.methods.catalogue import COPIES, DECLARED, METHODS, OURS, RECORDED, copies_text
from circuits.methods.method import Declared, Method
from circuits.methods.options import CHOICE, Kind, Option
from circuits.results import choice, selection

HERE = Path(__file__).parents[2]


def test_the_copies_for_the_command_line_are_current():
    assert COPIES.read_text(encoding="utf-8") == copies_text(), "make declared"


def test_the_page_of_options_is_current():
    made = runpy.run_path(str(HERE / "docs" / "options.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), "make declared"


@pytest.mark.parametrize("name", OURS)
def test_a_copy_says_what_the_method_says(name):
    method = METHODS[name]
    copy = Declared.from_dict(json.loads(json.dumps(method.to_dict())))
    assert copy == Declared(**{field: getattr(method, field) for field in Declared.__dataclass_fields__})
    assert DECLARED[name] == copy
    assert method.name == name


@pytest.mark.parametrize("name", OURS)
def test_every_option_is_an_argument_of_the_function_or_of_what_comes_after(name):
    from circuits.runs.discover import OF_PIPELINE

    method = METHODS[name]
    parameters = inspect.signature(method.function).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    for option in method.takes:
        assert takes_any or option.name in method.accepts or option.name in OF_PIPELINE[method.gives], option.name
    assert method.unasked == () or method.gives == "edges"


def test_a_copy_whose_file_has_changed_is_not_used(monkeypatch):
    monkeypatch.setattr(catalogue, "source_digest", lambda *files: "another")
    catalogue._copy.cache_clear()
    try:
        assert type(catalogue.declared("coar")) is not Declared
        assert list(catalogue.ablations()) == [
            "interchange",
            "zero",
            "mean",
            "mean_positional",
            "optimal",
            "gaussian",
            "resample",
        ]
    finally:
        catalogue._copy.cache_clear()


def test_rules_have_the_options_that_are_said():
    assert set(choice.RULES) == set(selection.RULES)
    for name, rule in selection.RULES.items():
        assert set(choice.RULES[name]) == set(list(inspect.signature(rule).parameters)[2:])


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="there is no method 'eap-gi'; did you mean eap-ig"):
        catalogue.declared("eap-gi")


def test_no_module_outside_methods_knows_the_name_of_a_method():
    """Every other module reads declarations. `eap-ig` is a file format too, `direct_effects` and `ensemble` are public functions, and
    `gim` is a gradient. MIB names the methods of its own submissions."""
    names = {*OURS, *RECORDED, *(name.replace("-", "_") for name in (*OURS, *RECORDED))} - {"refine"}
    result = {
        (str(path.relative_to(HERE)), node.value)
        for path in (HERE / "circuits").rglob("*.py")
        if not {"methods", "mib", "mib.py"} & {*path.relative_to(HERE).parts}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    }
    assert result <= {
        ("circuits/export/catalogue.py", "eap-ig"),
        ("circuits/cli/inspect.py", "direct_effects"),
        ("circuits/results/ensemble.py", "ensemble"),
        ("circuits/measure/norm_check.py", "gim"),
    }


STRENGTH = Option("strength", Kind.NUMBER, 2.0, "What scores are multiplied by.")


@pytest.mark.parametrize(
    ("function", "promised", "message"),
    [
        (lambda question, **options: None, {}, r"takes \*\*options, which hides what it uses"),
        (lambda question, *, progress: None, {}, "declares 'strength', which is not a parameter"),
        (lambda question, *, strength: None, {"divided": True}, "declares 'workers'"),
        (lambda question, *, strength: None, {"resumable": True}, "declares 'store'"),
        (lambda question, *, strength: None, {"draws": True}, "declares 'seed'"),
        (lambda question, *, strength: None, {"fixed": {"gradient": "clean"}}, "declares 'gradient'"),
    ],
)
def test_a_function_without_what_its_method_declares_is_refused(function, promised, message):
    with pytest.raises(InputError, match=message):
        Method(name="toy", function=function, gives="edges", help="", takes=(STRENGTH, *CHOICE), **promised)


TOY = '''
from dataclasses import replace

from circuits.methods.edge_attribution import edge_attribution_of
from circuits.methods.method import Method
from circuits.methods.options import CHOICE, RANDOM_CIRCUITS, Kind, Option


def toy(question, *, strength, flip=False):
    """EAP, scaled."""
    scores = edge_attribution_of(question, gradient="clean")
    return replace(scores, values=(-strength if flip else strength) * scores.values)


METHOD = Method(
    name="toy",
    function=toy,
    gives="edges",
    help="EAP, scaled",
    takes=(
        Option("strength", Kind.NUMBER, 2.0, "What scores are multiplied by.", above=0),
        Option("flip", Kind.FLAG, False, "Change their sign."),
        *CHOICE,
        RANDOM_CIRCUITS,
    ),
)
'''
STUDY = """
models = ["compiled/and-gate"]
tasks = ["compiled/and-gate"]
n = 4
[methods.toy]
strength = 3
edges = 5
"""


@pytest.fixture(scope="module")
def perform(tmp_path_factory):
    """The command line with a package installed that has a method."""
    place = tmp_path_factory.mktemp("toy")
    (place / "toy_method.py").write_text(TOY)
    (place / "toy-1.0.dist-info").mkdir()
    (place / "toy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (place / "toy-1.0.dist-info" / "entry_points.txt").write_text("[circuits.methods]\ntoy = toy_method:METHOD\n")
    (place / "study.toml").write_text(STUDY)
    cache = {"MECH_CIRCUITS_CACHE": str(place / "cache")}
    environment = {**os.environ, **cache, "PYTHONPATH": f"{HERE}{os.pathsep}{place}", "COLUMNS": "200"}

    def run(*asked, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "circuits", *asked], cwd=place, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


DISCOVER = ("discover", "compiled/and-gate", "--model", "compiled/and-gate", "--n", "4", "--method")


def test_a_method_of_another_package_is_in_the_help(perform):
    assert "toy" in perform("discover", "--help")
    assert "EAP, scaled" in perform("methods")
    shown = perform("methods", "show", "toy")
    assert "What scores are multiplied by." in shown
    assert "a finite number, above 0" in shown
    assert "--flip" in shown


def test_a_method_of_another_package_runs_and_its_options_are_checked(perform):
    asked = ("--edges", "5", "--metric", "log_probability", "--ablation", "zero", "--json", "--out")
    usual = json.loads(perform(*DISCOVER, "eap", *asked, "eap"))
    record = json.loads(perform(*DISCOVER, "toy", "--strength", "3", "--flip", *asked, "run"))
    assert [edge["score"] for edge in record["strongest"]] == [-3 * edge["score"] for edge in usual["strongest"]]
    assert "strength must be above 0, not 0.0" in perform(*DISCOVER, "toy", "--strength", "0", code=2)
    assert "no option 'steps'; its options: strength, flip" in perform(*DISCOVER, "toy", "--steps", "2", code=2)


def test_a_method_of_another_package_is_asked_by_a_study(perform):
    perform("study", "run", "study.toml", "--out", "study")
    (row,) = [json.loads(line) for line in perform("study", "table", "study", "--json").splitlines()]
    assert (row["method"], row["edges"]) == ("toy", 5)
