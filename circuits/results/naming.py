"""The user's names of nodes: labels ("name mover"), and groups of nodes that are drawn as one.

Labels are the only free text in an export. Control characters are refused here, white space becomes plain spaces, and each
format escapes the rest.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import InputError
from circuits.files.untrusted import read_json, read_toml, shown

if TYPE_CHECKING:
    from circuits.graph.graph import Graph

LONGEST = 200
"""Characters of a label."""
_REFUSED = ("Cc", "Cs", "Cn", "Co")
_DIRECTION = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Naming:
    """Labels of nodes and groups of nodes.

    Attributes:
        labels: node name -> label; several nodes may share a label.
        groups: label -> names of the nodes in the group.
        pinned: nodes that the viewer keeps in sight.

    >>> Naming({"a9.h6": "name mover"}, {"S-inhibition": ("a7.h3", "a8.h6")}).labels["a9.h6"]
    'name mover'
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.groups)

    def checked(self, graph: "Graph") -> "Naming":
        """The same with clean labels.

        Raises:
            InputError: a node that the graph does not have, a node in two groups, or an invalid label.
        """
        known = (*graph.writer_names, "logits")
        groups: dict[str, tuple[str, ...]] = {}
        home: dict[str, str] = {}
        for label, nodes in self.groups.items():
            label = clean(label, "the label of a group")
            if not nodes or label in groups:
                raise InputError(f"group {label!r} {'is named twice' if label in groups else 'has no nodes'}")
            for node in nodes:
                _check_node(node, known, f"group {label!r}")
                if node in home:
                    raise InputError(f"node {node} is in two groups, {home[node]!r} and {label!r}")
                home[node] = label
            groups[label] = tuple(nodes)
        for where, nodes in (("the labels", self.labels), ("the pinned nodes", self.pinned)):
            for node in nodes:
                _check_node(node, known, where)
        labels = {node: clean(label, f"the label of {node}") for node, label in self.labels.items()}
        return Naming(labels, groups, self.pinned)

    def role(self, node: str) -> str | None:
        """The label of a node, or of its group."""
        groups = (label for label, nodes in self.groups.items() if node in nodes)
        return self.labels.get(node) or next(groups, None)


def _check_node(node: Any, known: tuple[str, ...], where: str) -> None:
    if node not in known:
        near = get_close_matches(node[:40] if isinstance(node, str) else "", known, n=3, cutoff=0.3)
        hint = f"; the nearest: {', '.join(near)}" if near else ""
        raise InputError(f"{where}: there is no node {shown(node)} in this graph{hint}")


def clean(text: Any, what: str) -> str:
    """A label as one line; InputError if it is not text, is too long, or has control characters."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{what} must be text, got {shown(text)}")
    text = " ".join(text.split())
    if len(text) > LONGEST:
        raise InputError(f"{what} has {len(text)} characters; at most {LONGEST} are drawn")
    for sign in text:
        if unicodedata.category(sign) in _REFUSED or sign in _DIRECTION:
            raise InputError(f"{what} holds the control character U+{ord(sign):04X}; remove it")
    return text


def read_naming(path: str | Path) -> Naming:
    """Reads labels and groups from a TOML or JSON file.

    The file has a table `labels` (node = label), a table `groups` (label = list of nodes), or both; a file from the viewer
    also has the list `pinned`.

    Raises:
        InputError: the file cannot be read, or has other content.
    """
    path = Path(path)
    data = read_json(path) if path.suffix.lower() == ".json" else read_toml(path)
    if not isinstance(data, dict) or not data or not set(data) <= {"labels", "groups", "pinned"}:
        raise InputError(f"{path} must hold the tables 'labels' (node = label) and 'groups' (label = list of nodes)")
    labels, groups = data.get("labels", {}), data.get("groups", {})
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise InputError(f'{path}: \'labels\' must give a text for each node, as "a9.h6" = "name mover"')
    lists = isinstance(groups, dict) and all(isinstance(nodes, list) for nodes in groups.values())
    if not lists or not all(isinstance(node, str) for nodes in groups.values() for node in nodes):
        raise InputError(f'{path}: \'groups\' must give a list of nodes for each label, as "name movers" = ["a9.h6"]')
    pinned = data.get("pinned", [])
    if not isinstance(pinned, list) or not all(isinstance(node, str) for node in pinned):
        raise InputError(f"{path}: 'pinned' must be a list of nodes, as [\"a9.h6\"]")
    return Naming(labels, {label: tuple(nodes) for label, nodes in groups.items()}, tuple(pinned))
