"""Tasks, models and methods by name, from the entry points of this and other packages.

| group | an entry point names |
|---|---|
| `circuits.tasks` | a class derived from `tasks.base.Task` (or `tasks.base.Source`, for token ids) |
| `circuits.models` | an object with `description` (one line) and `bridge()`, which builds a TransformerBridge; for small models that need no download |
| `circuits.methods` | a `circuits.methods.method.Method` |
| `circuits.recorded` | a `circuits.results.recorded.Recorded`: what is declared of results whose provenance names this method, for a function that is not one of `circuits.methods` |

A task with a known circuit may have a method `known_circuits`; see `KnowsCircuits`.

The command line, `tasks.load` and `circuits.load_model` look up names here, so that the library need not import `tasks`. A package
that may be used before it is installed calls `provide`.
"""

import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from circuits.errors import InputError

GROUP = "circuits.tasks"
MODELS = "circuits.models"
METHODS = "circuits.methods"
RECORDED = "circuits.recorded"
_KIND = {GROUP: "task", MODELS: "model", METHODS: "method", RECORDED: "result"}
_PROVIDED: dict[str, dict[str, str]] = {GROUP: {}, MODELS: {}, METHODS: {}, RECORDED: {}}


@runtime_checkable
class BuiltModel(Protocol):
    """A model that is built in Python.

    Attributes:
        description: one line.
    """

    @property
    def description(self) -> str: ...
    def bridge(self) -> Any:
        """A new TransformerBridge, in the dtype of the model."""
        ...


@runtime_checkable
class KnowsCircuits(Protocol):
    """A task that knows the true edges, so that `circuits evaluate` can report how well they were recovered."""

    def known_circuits(self, model: Any, pairs: Any, *, ablation: Any, metric: str | None) -> Mapping[str, Any]:
        """The true circuits by definition of truth, such as `{"active": Circuit, "jointly active": Circuit}`.

        Args:
            model: a `circuits.Model`.
            pairs: the `PromptPairs`.
            ablation: name or `Ablation`, on which truth depends.
            metric: its name; None: the metric of the task.

        Returns:
            Circuits of this model's graph; empty if nothing is known, such as for another model.
        """
        ...


def provide(group: str, offered: Mapping[str, str]) -> None:
    """Adds tasks, models or methods without entry points.

    Args:
        group: `circuits.tasks`, `circuits.models`, `circuits.methods` or `circuits.recorded`.
        offered: name -> `module:class`.
    """
    _PROVIDED[group].update(offered)


def task_names() -> list[str]:
    """The names of all tasks. Nothing is imported yet."""
    return sorted(_points(GROUP))


def check_task(name: str) -> None:
    """Refuses a name that no task has, without importing one; raises as `load_task`."""
    _point(GROUP, _task_options(name)[0])


def load_task(name: str, **options: Any) -> Any:
    """A task by name, in which `_` and `-` are equal.

    Args:
        name: such as `ioi`, or with options, as pairs record it: `ioi(order=ABBA, counterfactual=abc)`. `circuits tasks` lists
            the names, `circuits tasks show ioi` the options.
        options: of the task, such as `counterfactual` of `ioi`; they replace those in the name.

    Returns:
        A `tasks.Task` (or `tasks.Source`): its `pairs(model, n, seed)` gives `PromptPairs`.

    Raises:
        InputError: no task has that name or option, or its package cannot be loaded.

    >>> load_task("ioi", counterfactual="abc").label
    'ioi(counterfactual=abc)'
    >>> load_task("ioi(counterfactual=abc)") == load_task("ioi", counterfactual="abc")
    True
    """
    _import_own_tasks()
    from dataclasses import fields, is_dataclass

    name, written = _task_options(name)
    point = _point(GROUP, name)
    kind = _loaded(point)
    if not (isinstance(kind, type) and is_dataclass(kind) and callable(getattr(kind, "pairs", None))):
        raise InputError(f"task {point.name!r} ({point.value}) is not a class derived from tasks.base.Task")
    known = {field.name: field.default for field in fields(kind)}
    for option in {**written, **options}:
        if option not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(f"task {point.name!r} has no option {option!r}; {takes}")
    typed = {option: _like(known[option], text) for option, text in written.items()}
    return kind(**{**typed, **options})


def model_names() -> list[str]:
    """The names of all models that are built in Python. Nothing is imported yet."""
    return sorted(_points(MODELS))


def find_model(name: str) -> BuiltModel:
    """A model by name, in which `_` and `-` are equal; InputError if it does not exist or cannot be loaded."""
    point = _point(MODELS, name)
    model = _loaded(point)
    if not (isinstance(model, BuiltModel) and isinstance(model.description, str)):
        raise InputError(f"model {point.name!r} ({point.value}) has no description and bridge(); see circuits.plugins")
    return model


def names_built_model(name: str) -> bool:
    """Whether this is the name of a built model, or has the prefix of one (`compiled/…`)."""
    known = model_names()
    families = {one.partition("/")[0] for one in known if "/" in one}
    family, slash, _ = name.partition("/")
    return name.replace("_", "-") in known or (bool(slash) and family in families)


def check_model_path(name: str) -> None:
    """Refuses a path to a directory that does not exist; a Hugging Face id has one slash at most, and no dots before it."""
    written = name.startswith((".", "~", "/", "\\")) or name.endswith(("/", "\\")) or name.count("/") > 1
    if written and not Path(name).is_dir():
        raise InputError(
            f"no such directory: {name}" + (" (give the whole path instead of ~)" if name[0] == "~" else "")
        )
    folder = Path(name).parent
    if name.count("/") == 1 and folder.is_dir() and not Path(name).exists():
        models = sorted(f"{one.parent}" for one in folder.glob("*/config.json"))
        if models:
            raise InputError(f"no such directory: {name}; {folder} contains {', '.join(models[:5])}")


def method_names() -> list[str]:
    """The names of all methods. Nothing is imported yet."""
    return sorted(_points(METHODS))


def find_method(name: str) -> Any:
    """The object of a method's entry point, which `circuits.methods.catalogue.method` checks; InputError if there is none."""
    return _loaded(_point(METHODS, name))


def recorded(name: str) -> Any:
    """What is declared of results that record this method; None: nothing, or its package cannot be loaded."""
    importlib.import_module("circuits.methods.catalogue")  # it provides the names of the built-in ones
    for group in (RECORDED, METHODS):
        point = _points(group).get(name.replace("_", "-"))
        if point is not None:
            with suppress(InputError):
                declared = _loaded(point)
                return declared if group == RECORDED else getattr(declared, "results", None)
    return None


def method_state(name: str) -> str:
    """Changes when the package of a method changes: its distribution's version, or its files. Nothing is imported."""
    point = _point(METHODS, name)
    version = "" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    return f"{point.value} {version} {code_state(point.module)}"


@cache
def code_state(module: str) -> str:
    """sha256 of the package of a module, word lists included; of the module alone if it is in no package. Nothing is imported."""
    top = importlib.util.find_spec(module.partition(".")[0])
    origin = None if top is None else top.origin
    if origin is None or not Path(origin).is_file():
        return "no file"
    files = [Path(origin)]
    if top is not None and top.submodule_search_locations:
        suffixes = (".py", ".json", ".safetensors")
        files = sorted(path for path in Path(origin).parent.rglob("*") if path.suffix in suffixes)
    sums = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def _task_options(name: str) -> tuple[str, dict[str, str]]:
    """The name of a task, and the options in brackets behind it."""
    task, bracket, rest = name.partition("(")
    if not bracket:
        return name, {}
    if not rest.endswith(")"):
        raise InputError(
            f"the task {name!r} has no closing bracket; write options as ioi(order=ABBA, counterfactual=abc)"
        )
    options: dict[str, str] = {}
    for part in rest[:-1].split(","):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not (equals and option and value) or option in options:
            raise InputError(
                f"the task {name!r} has the option {part.strip()!r}; write each once, as in ioi(order=ABBA)"
            )
        options[option.replace("-", "_")] = value
    return task.strip(), options


def _like(default: Any, text: str) -> Any:
    """The text of an option as a value of its default's type; as text if it is none, for the task to refuse."""
    if isinstance(default, bool):
        return {"True": True, "False": False}.get(text, text)
    with suppress(ValueError):
        return type(default)(text) if isinstance(default, int | float) else text
    return text


def _point(group: str, name: str) -> EntryPoint:
    points, kind = _points(group), _KIND[group]
    point = points.get(name.replace("_", "-"))
    if point is None:
        near = get_close_matches(name.lower().replace("_", "-"), points, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise InputError(f"there is no {kind} {name!r}; {hint}{kind.title()}s are {', '.join(sorted(points))}")
    return point


def _points(group: str) -> dict[str, EntryPoint]:
    """All entry points of a group, by name; InputError if two packages use one name for different objects."""
    points = {name: EntryPoint(name, value, group) for name, value in _PROVIDED[group].items()}
    for point in entry_points(group=group):
        name = point.name.replace("_", "-")
        other = points.setdefault(name, point)
        if other.value != point.value:
            raise InputError(
                f"two packages have a {_KIND[group]} {name!r}: {other.value} and {point.value}; uninstall one or rename "
                f"its {_KIND[group]}"
            )
    return points


def _loaded(point: EntryPoint) -> Any:
    try:
        if point.value.startswith("tasks."):
            _import_own_tasks()
        return point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"{_KIND[point.group]} {point.name!r} ({point.value}) cannot be loaded: {error}") from error


def _import_own_tasks() -> None:
    """Imports the package `tasks` beside this one, even if a file `tasks.py` in the working directory hides it."""
    home = Path(__file__).parents[1] / "tasks"
    known = sys.modules.get("tasks")
    if known is not None and list(getattr(known, "__path__", ())) == [str(home)]:
        return
    spec = spec_from_file_location("tasks", home / "__init__.py", submodule_search_locations=[str(home)])
    if spec is None or spec.loader is None or not home.is_dir():
        return
    package = sys.modules["tasks"] = module_from_spec(spec)
    spec.loader.exec_module(package)
