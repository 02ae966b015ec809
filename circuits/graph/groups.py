"""Groups of nodes by name, such as `heads+mlps`; light, so that the command line can check them before torch is imported."""

import re
from difflib import get_close_matches

from circuits.errors import InputError

GROUPS = ("heads", "mlps", "input", "q", "k", "v", "neurons", "rows", "input_rows", "features")


def groups_in(text: str) -> list[str]:
    """The groups of nodes that `+` joins.

    Raises:
        InputError: an unknown group.
    """
    groups = text.split("+")
    for group in groups:
        if group not in GROUPS:
            near = get_close_matches(group, GROUPS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            if re.match(r"\s*(?:[am]\d|[fes]:)", group):  # the name of a node, or several
                hint = f"; give names of nodes as a list: {[name.strip() for name in group.split(',')][:3]}"
            raise InputError(f"unknown group of nodes {group!r} in {text!r}{hint} (groups: {', '.join(GROUPS)})")
    return groups
