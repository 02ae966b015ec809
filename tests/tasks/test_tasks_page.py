"""The task that docs/tasks.md writes from nothing: it runs, is found by its entry point, and can be checked."""

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import circuits
from circuits import plugins
from circuits.cli import tasks as tasks_command
from tests.command import run

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


@pytest.mark.real_model
def test_the_pages_task_is_found_by_its_entry_point_and_checked(monkeypatch, tmp_path, smollm2, capsys):
    page = PAGE.read_text()
    spans, order, lengths, written, used, known = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (entry,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    ((name, value),) = tomllib.loads(entry)["project"]["entry-points"][plugins.GROUP].items()
    (tmp_path / f"{value.split(':')[0]}.py").write_text(written)
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint(name, value, plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    monkeypatch.setattr(tasks_command, "load", lambda *_: smollm2)
    assert run(monkeypatch, ["tasks", "check", name, "--n", "8"]) == 0
    assert f"{name} in smollm2-135m, 8 pairs" in capsys.readouterr().out
    namespace = {}
    for block in (spans, order, lengths):
        exec(compile(block, str(PAGE), "exec"), {"circuits": circuits, "model": smollm2})
    exec(compile(written + used, str(PAGE), "exec"), namespace)
    assert namespace["scores"] is not None
    exec(compile(known, str(PAGE), "exec"), namespace)
    task = namespace["YoungAndKnown"]()
    assert isinstance(task, plugins.KnowsCircuits)
    assert task.known_circuits(smollm2, namespace["pairs"], ablation="zero", metric=None)["found by hand"]
