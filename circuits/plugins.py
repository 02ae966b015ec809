"""Tasks by name: entry points of the group `circuits.tasks`, ours as well as those of other packages.

The library does not import `tasks`; the dependency points the other way. The command line and `tasks.load` look here.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from circuits.errors import InputError

GROUP = "circuits.tasks"


def task_names(built_in: Mapping[str, str] | None = None) -> list[str]:
    """The names of all tasks that can be loaded. Nothing is imported yet.

    Args:
        built_in: tasks that are known without being installed: name -> `module:class`.
    """
    return sorted(_found(built_in or {}))


def find_task(name: str, built_in: Mapping[str, str] | None = None, **options: Any) -> Any:
    """The task of that name; `_` and `-` are the same in it.

    Args:
        name: see `task_names`.
        built_in: see `task_names`.
        options: the task's own, such as `counterfactual` of `ioi`.

    Raises:
        InputError: no task has that name or takes that option, or its package cannot be loaded.
    """
    found = _found(built_in or {})
    point = found.get(name.replace("_", "-"))
    if point is None:
        near = get_close_matches(name.lower().replace("_", "-"), found, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise InputError(f"there is no task {name!r}; {hint}Tasks are {', '.join(sorted(found))}")
    return _make(point, options)


def _found(built_in: Mapping[str, str]) -> dict[str, EntryPoint]:
    """All tasks' entry points by name.

    Raises:
        InputError: two packages give one name to different tasks.
    """
    found = {name: EntryPoint(name, value, GROUP) for name, value in built_in.items()}
    for point in entry_points(group=GROUP):
        name = point.name.replace("_", "-")
        other = found.setdefault(name, point)
        if other.value != point.value:
            raise InputError(
                f"two packages have a task {name!r}: {other.value} and {point.value}; uninstall one or rename its task"
            )
    return found


def _make(point: EntryPoint, options: dict[str, Any]) -> Any:
    from dataclasses import fields, is_dataclass

    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"task {point.name!r} ({point.value}) cannot be loaded: {error}") from error
    if not (isinstance(kind, type) and is_dataclass(kind) and callable(getattr(kind, "pairs", None))):
        raise InputError(f"task {point.name!r} ({point.value}) is not a class derived from tasks.base.Task")
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(f"task {point.name!r} has no option {option!r}; {takes}")
    return kind(**options)
