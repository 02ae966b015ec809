"""Tasks: behaviours with prompt pairs, found by name.

Tasks are entry points of the group `circuits.tasks`, ours as well as those of other packages: a class derived from
`tasks.base.Task`. Ours are known without the entry points too, so that a checkout works before it is installed.
"""

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from circuits.errors import InputError

if TYPE_CHECKING:
    from tasks.base import Task

GROUP = "circuits.tasks"
BUILT_IN = {
    "greater-than": "tasks.greater_than:GreaterThan",
    "ioi": "tasks.ioi:IOI",
}


def names() -> list[str]:
    """The names of all tasks that can be loaded.

    >>> "ioi" in names()
    True
    """
    return sorted(_found())


def load(name: str, **options: Any) -> "Task":
    """The task of that name; `_` and `-` are the same in it.

    Args:
        name: see `names()`.
        options: the task's own, such as `counterfactual` of `ioi`.

    Raises:
        InputError: no task has that name or takes that option, or its package cannot be loaded.

    >>> load("ioi", counterfactual="abc").label
    'ioi(counterfactual=abc)'
    """
    found = _found()
    point = found.get(name.replace("_", "-"))
    if point is None:
        near = get_close_matches(name.lower().replace("_", "-"), found, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise InputError(f"there is no task {name!r}; {hint}Tasks are {', '.join(sorted(found))}")
    return _make(point, options)


def _found() -> dict[str, EntryPoint]:
    """All tasks' entry points by name. Nothing is imported yet.

    Raises:
        InputError: two packages give one name to different tasks.
    """
    found = {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}
    for point in entry_points(group=GROUP):
        name = point.name.replace("_", "-")
        other = found.setdefault(name, point)
        if other.value != point.value:
            raise InputError(
                f"two packages have a task {name!r}: {other.value} and {point.value}; uninstall one or rename its task"
            )
    return found


def _make(point: EntryPoint, options: dict[str, Any]) -> "Task":
    from dataclasses import fields

    from tasks.base import Task

    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"task {point.name!r} ({point.value}) cannot be loaded: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise InputError(f"task {point.name!r} ({point.value}) is not a class derived from tasks.base.Task")
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(f"task {point.name!r} has no option {option!r}; {takes}")
    return kind(**options)


def __getattr__(name: str) -> Any:
    # `tasks.Task` without importing torch for those who only want names.
    if name in ("At", "Draw", "Example", "Task", "UnusableError"):
        from tasks import base

        return getattr(base, name)
    raise AttributeError(f"module 'tasks' has no attribute {name!r}")
