"""Functions stay short, and take few arguments: `docs/contributing.md` names the limits."""

import ast
from collections.abc import Iterator
from pathlib import Path

import circuits

ROOT = Path(__file__).parents[1]
MOST_LINES, MOST_PARAMETERS = 60, 14
MOST_ASSERTIONS = 9
"""Of a test, as written; one with more checks several claims."""


def functions(*folders: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{path.relative_to(ROOT)}: {node.name}", node


def test_no_function_is_longer_than_the_limit():
    """With its decorators, signature and docstring."""
    lengths = {
        name: (node.end_lineno or 0) - min([node.lineno, *(one.lineno for one in node.decorator_list)]) + 1
        for name, node in functions("circuits", "tasks")
    }
    assert len(lengths) > 1000
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_only_public_functions_and_methods_take_many_arguments():
    public = {name: getattr(circuits, name) for name in dir(circuits)}
    allowed = {*public, *(name for one in public.values() if isinstance(one, type) for name in vars(one))}
    numbers = {
        name: len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
        for name, node in functions("circuits", "tasks")
    }
    many = {name for name, n in numbers.items() if n > MOST_PARAMETERS}
    assert {name for name in many if name.rpartition(" ")[2] not in allowed} == set()


def test_no_test_checks_many_claims():
    """A test that needs more assertions is split, with a fixture for what its parts share."""
    numbers = {
        name: sum(isinstance(each, ast.Assert) for each in ast.walk(node))
        for name, node in functions("tests")
        if node.name.startswith("test_")
    }
    assert len(numbers) > 1500
    many = {name.rpartition(" ")[2] for name, n in numbers.items() if n > MOST_ASSERTIONS}
    assert not many
