"""Tasks as the command line finds them: entry points of the group `circuits.tasks`, ours and those of other packages.

The library does not import `tasks`; the dependency points the other way.
"""

from importlib.metadata import entry_points
from typing import Any

from circuits.errors import InputError

GROUP = "circuits.tasks"


def task_names() -> list[str]:
    """Names of all installed tasks."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def find_task(name: str) -> Any:
    """An installed task by name (`_` and `-` are the same).

    Raises:
        InputError: there is none; the nearest names are offered.
    """
    from difflib import get_close_matches

    wanted = name.lower().replace("_", "-")
    for point in entry_points(group=GROUP):
        if point.name == wanted:
            return point.load()()
    near = get_close_matches(wanted, task_names(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise InputError(f"there is no task or file {name!r}; {hint}Tasks are {', '.join(task_names())}")
