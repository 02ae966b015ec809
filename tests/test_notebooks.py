"""The notebooks run from top to bottom, small and on a narrow model of the default model's shape; each is the same as its source."""

from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
INSTEAD = """
import circuits
load_model = circuits.load_model
circuits.load_model = lambda name: load_model({!r} if name == "smollm2-135m" else name)
"""


@pytest.mark.real_model
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch, narrow_smollm2):
    nbclient, jupytext, nbformat = map(pytest.importorskip, ("nbclient", "jupytext", "nbformat"))
    monkeypatch.setenv("SMOKE", "1")
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(INSTEAD.format(str(narrow_smollm2))))
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_source(name):
    jupytext = pytest.importorskip("jupytext")
    source, notebook = (jupytext.read(NOTEBOOKS / f"{name}{suffix}") for suffix in (".py", ".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in source.cells] == [
        (cell.cell_type, cell.source) for cell in notebook.cells
    ], "run: jupytext --sync notebooks/*.py"
    first, second = notebook.cells[:2]
    assert "colab-badge" in first.source
    assert "pip" in second.source
    assert "SMOKE" in second.source
