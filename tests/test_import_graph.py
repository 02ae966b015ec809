"""The layers of `docs/contributing.md`: a module imports only from its own package and from those before it, and never in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

HOUSE = Path(__file__).parents[1] / "circuits"
LAYERS = (
    "errors", "arguments", "progress", "quiet", "threads", "plain_torch", "shown", "plugins", "workers", "files", "stats", "graph", "prompts", "zoo", "engine",
    "model_files", "model_sizes", "model_ungrouped", "model_bridge", "remembered_check", "memory_budget", "model", "model_calls", "dictionaries", "question", "results", "measure", "methods", "descriptions", "evaluation", "export",
    "plots", "viewer", "notebook", "pages", "runs", "mib", "report", "study", "cli", "pytest_plugin",
)  # fmt: skip
"""From the bottom to the top."""
HEAVY = {
    "torch": "plain_torch workers files stats graph prompts engine model_sizes model_ungrouped model_bridge remembered_check model dictionaries question results measure methods evaluation descriptions export "
    "plots runs mib pages viewer",
    "transformer_lens": "engine model_bridge model",
    "transformers": "",
    "scipy": "methods",
    "networkx": "results export",
    "plotly": "plots pages",
    "ray": "",
    "typer": "cli",
    "rich": "",
}
"""Packages that take long to import, and the layers that may do so as soon as they are imported themselves."""


def modules() -> dict[str, Path]:
    return {".".join(path.relative_to(HOUSE).with_suffix("").parts): path for path in sorted(HOUSE.rglob("*.py"))}


def imports(path: Path, at_once: bool = False) -> Iterator[str]:
    """Full names of all that a file imports: also inside functions and for type checkers, unless only `at_once` is asked for."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name: str, known: dict[str, Path]) -> str | None:
    """The module of this package that an imported name is, or is in."""
    parts = name.split(".")[1:]
    for candidate in (parts, parts[:-1]):
        for module in (".".join(candidate), ".".join([*candidate, "__init__"])):
            if module in known:
                return module
    return None


@pytest.fixture(scope="module")
def edges() -> list[tuple[str, str]]:
    known = modules()
    result = set()
    for name, path in known.items():
        for imported in imports(path):
            target = module_of(imported, known) if imported.split(".")[0] == "circuits" else None
            if target not in (None, name, "__init__"):
                result.add((name, target))
    return sorted(result)


def layer(module: str) -> str:
    return module.split(".")[0]


def test_every_module_is_in_a_layer():
    assert {layer(module) for module in modules()} == {*LAYERS, "__init__", "__main__"}


def test_nothing_is_imported_from_a_layer_above(edges):
    height = {name: i for i, name in enumerate((*LAYERS, "__init__", "__main__"))}
    assert [edge for edge in edges if height[layer(edge[0])] < height[layer(edge[1])]] == []


def test_no_modules_import_each_other(edges):
    """Neither at once nor later: a lazy import that closes a circle is a circle."""
    graph = nx.DiGraph(edges)
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


@pytest.mark.parametrize("package", HEAVY)
def test_what_takes_long_is_imported_where_it_is_needed_only(package):
    result = {
        layer(name)
        for name, path in modules().items()
        if any(imported.split(".")[0] == package for imported in imports(path, at_once=True))
    }
    assert result <= set(HEAVY[package].split())


def test_no_test_imports_from_another_test_module():
    tests = Path(__file__).parent
    result = [
        (str(path.relative_to(tests)), name)
        for path in sorted(tests.rglob("*.py"))
        for name in imports(path)
        if any(part.startswith("test_") for part in name.split(".")[:-1] if name.startswith("tests."))
    ]
    assert result == []
