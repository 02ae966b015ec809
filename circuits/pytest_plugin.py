"""A pytest plugin: does the tested model still have the circuit of a run?

Installed with `mech-circuits[test]`. A test asks for the fixture `circuit_guard`:

```python
def test_the_model_still_has_its_circuit(circuit_guard):
    circuit_guard("runs/ioi", "build/model", faithfulness=0.8, overlap=0.5, edges=["a9.h9->logits"])
```

The test fails if what it asks for does not hold, and a section at the end of pytest's output says for each guard what was measured and
what changed. `pytest --circuits-update` replaces each run by one on the tested model, instead of checking it. torch is imported when
a guard is used, not when pytest starts.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from circuits.errors import InputError

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.runs.guard import GuardReport

OPTION = "--circuits-update"
_REPORTS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--circuits-update`."""
    parser.getgroup("mech-circuits").addoption(
        OPTION, action="store_true", dest="circuits_update",
        help="circuit_guard: replace each run by one on the tested model, instead of checking it.",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORTS] = []


@pytest.fixture
def circuit_guard(request: pytest.FixtureRequest) -> "Callable[..., GuardReport | None]":
    """A function `(run, model, *, faithfulness=None, overlap=None, edges=(), level=0.95)` that fails the test if the model lost the
    circuit; see `circuits.runs.guard.check_model`. The model is a `circuits.Model`, or what `circuits.load_model` takes.
    """

    def guard(
        run: str | Path,
        model: "Model | Any",
        *,
        faithfulness: float | None = None,
        overlap: float | None = None,
        edges: Collection[str] = (),
        level: float = 0.95,
    ) -> "GuardReport | None":
        __tracebackhide__ = True
        reports = request.config.stash[_REPORTS]
        path = Path(run) if Path(run).is_absolute() else request.config.rootpath / run
        try:
            loaded = _loaded(model)
            if request.config.getoption("circuits_update"):
                from circuits.runs.guard import update_run

                update_run(path, loaded)
                reports.append(f"circuit of {run}: replaced by that of {loaded.name}")
                return None
            from circuits.runs.guard import check_model

            report = check_model(path, loaded, faithfulness=faithfulness, overlap=overlap, edges=edges, level=level)
        except InputError as problem:
            pytest.fail(f"circuit_guard: {problem}", pytrace=False)
        reports.append(str(report))
        if not report.passed:
            pytest.fail(str(report), pytrace=False)
        return report

    return guard


def _loaded(model: Any) -> "Model":
    from circuits.model import Model, load_model

    if isinstance(model, Model):
        return model
    return load_model(str(model) if isinstance(model, Path) else model)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What the guards found, if there were any."""
    reports = config.stash.get(_REPORTS, [])
    if reports:
        terminalreporter.section("circuit guard")
        for report in reports:
            terminalreporter.write_line(report)
