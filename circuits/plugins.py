"""Tasks, models and methods by name: entry points of three groups, ours as well as those of other packages.

| group | an entry point names |
|---|---|
| `circuits.tasks` | a class derived from `tasks.base.Task` (or `tasks.base.Source`, for token ids) |
| `circuits.models` | anything with `description`, a line, and `bridge()`, which builds a TransformerBridge; for small models that need no download |
| `circuits.methods` | a `circuits.methods.method.Method` |

A task whose circuit is known may say so by a method, `known_circuits`; see `KnowsCircuits`.

The library does not import `tasks`; the dependency points the other way. The command line, `tasks.load` and
`circuits.load_model` look here. A package that may be used before it is installed says what it has with `provide`.
"""

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from circuits.errors import InputError

GROUP = "circuits.tasks"
MODELS = "circuits.models"
METHODS = "circuits.methods"
_KIND = {GROUP: "task", MODELS: "model", METHODS: "method"}
_PROVIDED: dict[str, dict[str, str]] = {GROUP: {}, MODELS: {}, METHODS: {}}


@runtime_checkable
class BuiltModel(Protocol):
    """A model that is built rather than fetched.

    Attributes:
        description: what it is, in a line.
    """

    @property
    def description(self) -> str: ...
    def bridge(self) -> Any:
        """A new TransformerBridge, in the dtype that suits the model."""
        ...


@runtime_checkable
class KnowsCircuits(Protocol):
    """A task that knows which edges are the true ones; `circuits evaluate` then tells how well they were recovered."""

    def known_circuits(self, model: Any, pairs: Any, *, ablation: Any, metric: str | None) -> Mapping[str, Any]:
        """What is true of this question, by what "true" means: such as `{"active": Circuit, "jointly active": Circuit}`.

        Args:
            model: a `circuits.Model`.
            pairs: the `PromptPairs` that it was asked about.
            ablation: name or `Ablation`; what is true depends on it.
            metric: its name; None: the one the task prefers.

        Returns:
            Circuits of this model's graph by name; empty where nothing is known, such as for another model.
        """
        ...


def provide(group: str, offered: Mapping[str, str]) -> None:
    """Makes tasks, models or methods known without their entry points.

    Args:
        group: `circuits.tasks`, `circuits.models` or `circuits.methods`.
        offered: name -> `module:class`.
    """
    _PROVIDED[group].update(offered)


def task_names() -> list[str]:
    """The names of all tasks that can be loaded. Nothing is imported yet."""
    return sorted(_found(GROUP))


def check_task(name: str) -> None:
    """Refuses a name that no task has, without importing one; raises as `find_task`."""
    _point(GROUP, name)


def find_task(name: str, **options: Any) -> Any:
    """The task of that name; `_` and `-` are the same in it.

    Args:
        name: see `task_names`.
        options: the task's own, such as `counterfactual` of `ioi`.

    Raises:
        InputError: no task has that name or takes that option, or its package cannot be loaded.
    """
    return _make(_point(GROUP, name), options)


def model_names() -> list[str]:
    """The names of all models that are built rather than fetched. Nothing is imported yet."""
    return sorted(_found(MODELS))


def find_model(name: str) -> BuiltModel:
    """The model of that name; `_` and `-` are the same in it.

    Raises:
        InputError: no model has that name, or its package cannot be loaded.
    """
    point = _point(MODELS, name)
    found = _loaded(point)
    if not (isinstance(found, BuiltModel) and isinstance(found.description, str)):
        raise InputError(f"model {point.name!r} ({point.value}) has no description and bridge(); see circuits.plugins")
    return found


def names_built_model(name: str) -> bool:
    """Whether this is the name of a model of ours, or one that belongs to a family of them (`compiled/…`)."""
    known = model_names()
    families = {one.partition("/")[0] for one in known if "/" in one}
    family, slash, _ = name.partition("/")
    return name.replace("_", "-") in known or (bool(slash) and family in families)


def method_names() -> list[str]:
    """The names of all methods. Nothing is imported yet."""
    return sorted(_found(METHODS))


def find_method(name: str) -> Any:
    """What the entry point of that name gives; `circuits.methods.catalogue.method` checks it.

    Raises:
        InputError: no method has that name, or its package cannot be loaded.
    """
    return _loaded(_point(METHODS, name))


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


def _point(group: str, name: str) -> EntryPoint:
    found, kind = _found(group), _KIND[group]
    point = found.get(name.replace("_", "-"))
    if point is None:
        near = get_close_matches(name.lower().replace("_", "-"), found, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise InputError(f"there is no {kind} {name!r}; {hint}{kind.title()}s are {', '.join(sorted(found))}")
    return point


def _found(group: str) -> dict[str, EntryPoint]:
    """All entry points of a group, by name.

    Raises:
        InputError: two packages give one name to different things.
    """
    found = {name: EntryPoint(name, value, group) for name, value in _PROVIDED[group].items()}
    for point in entry_points(group=group):
        name = point.name.replace("_", "-")
        other = found.setdefault(name, point)
        if other.value != point.value:
            raise InputError(
                f"two packages have a {_KIND[group]} {name!r}: {other.value} and {point.value}; uninstall one or rename "
                f"its {_KIND[group]}"
            )
    return found


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"{_KIND[point.group]} {point.name!r} ({point.value}) cannot be loaded: {error}") from error


def _make(point: EntryPoint, options: dict[str, Any]) -> Any:
    from dataclasses import fields, is_dataclass

    kind = _loaded(point)
    if not (isinstance(kind, type) and is_dataclass(kind) and callable(getattr(kind, "pairs", None))):
        raise InputError(f"task {point.name!r} ({point.value}) is not a class derived from tasks.base.Task")
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(f"task {point.name!r} has no option {option!r}; {takes}")
    return kind(**options)
