"""Nodes to patch: at all positions (`a5.h2`), or at one position of each prompt (`a5.h2@S2`, `a5.h2@7`)."""

from collections.abc import Sequence
from dataclasses import dataclass

from circuits.engine.patch import Patch
from circuits.errors import InputError
from circuits.graph.nodes import Site, find_site, select_sites
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.positions import position_axis, tokens_at
from circuits.question.question import Batch


@dataclass(frozen=True)
class PlacedNode:
    """A node, at all positions or at one.

    Attributes:
        site: the node.
        position: a role or a token number; None: all positions together.
    """

    site: Site
    position: str | None = None

    @property
    def name(self) -> str:
        return self.site.name if self.position is None else f"{self.site.name}@{self.position}"

    def patch(self, batch: Batch, pairs: PromptPairs) -> Patch:
        """The patch that replaces the node in a batch."""
        return Patch(self.site, None if self.position is None else tokens_at(self.position, batch, pairs))


def placed_nodes(
    model: Model, pairs: PromptPairs, nodes: str | Sequence[str], positions: str | Sequence[str] | None = None
) -> tuple[PlacedNode, ...]:
    """Nodes by name.

    Args:
        model: a loaded model.
        pairs: the prompts with these positions.
        nodes: groups joined by `+`, or a list of names, each optionally with its position: `a5.h2@S2`.
        positions: for names without a position; see `circuits.question.positions`.

    Raises:
        InputError: an unknown node, a node named twice, or no nodes.
        PairsError: positions that the pairs do not have.
    """
    axis = position_axis(pairs, positions) or (None,)
    if isinstance(nodes, str):
        return tuple(PlacedNode(s, label) for s in select_sites(model.graph, nodes, model.widths) for label in axis)
    placed: dict[str, PlacedNode] = {}
    for given in nodes:
        name, at, label = given.partition("@")
        site = find_site(model.graph, name, model.widths)
        for node in (
            [PlacedNode(site, place_label(pairs, label))] if at else [PlacedNode(site, label) for label in axis]
        ):
            if node.name in placed:
                raise InputError(f"node {node.name} is given twice; name it once")
            placed[node.name] = node
    if not placed:
        raise InputError("no nodes are given; name at least one")
    return tuple(placed.values())


def place_label(pairs: PromptPairs, label: str) -> str:
    """Returns the label if the pairs have this position; else PairsError."""
    if label.isdecimal() and label in (position_axis(pairs, "each") or ()):
        return label
    position_axis(pairs, [label])
    return label
