"""Alignments: which nodes of a model represent which variable of a causal model, as a hypothesis (Geiger et al. 2021, 2106.02997).

A node is written as usual (`a5.h5`), or at one position of each prompt: `a5.h5@S2` for a role or span, `a5.h5@12` for a token index. The
nodes of two variables must not overlap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuits.errors import InputError, PairsError
from circuits.graph.nodes import Site, find_site
from circuits.methods.causal_model import CausalModel
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.positions import span_names


@dataclass(frozen=True)
class NodeAt:
    """A node, at all positions or at one of each prompt.

    Attributes:
        site: where the node's value is.
        position: name of a role or a token index; None: all positions.
    """

    site: Site
    position: str | None = None

    def overlaps(self, other: "NodeAt") -> bool:
        """Whether both denote the same node at the same position (a role and an index count as different positions)."""
        return self.site == other.site and (None in (self.position, other.position) or self.position == other.position)

    def __str__(self) -> str:
        return self.site.name if self.position is None else f"{self.site.name}@{self.position}"


def align(
    model: Model, pairs: PromptPairs, causal_model: CausalModel, alignment: Mapping[str, str | Sequence[str]]
) -> dict[str, list[NodeAt]]:
    """The nodes of each variable, checked against the causal model, the model and the pairs.

    Raises:
        InputError: no variables, unknown variables or nodes, a variable without nodes, or overlapping nodes.
        PairsError: a pair lacks a position.
    """
    if not alignment:
        raise InputError("the alignment is empty; map at least one variable to nodes")
    parts: dict[str, list[NodeAt]] = {}
    for variable, nodes in alignment.items():
        causal_model.require(variable, "alignment")
        parts[variable] = []
        for name in [nodes] if isinstance(nodes, str) else nodes:
            node = _node_at(model, pairs, name)
            for owner, other in ((owner, other) for owner, others in parts.items() for other in others):
                if node.overlaps(other):
                    raise InputError(
                        f"node {name!r} of variable {variable!r} is already aligned, as {str(other)!r} of {owner!r}; "
                        "align each node (at each position) once, and compare rival alignments in two calls"
                    )
            parts[variable].append(node)
        if not parts[variable]:
            raise InputError(f"variable {variable!r} is aligned with no node; name some, or leave it out")
    return parts


def _node_at(model: Model, pairs: PromptPairs, name: str) -> NodeAt:
    """Parses the name of a node; its position must be in every pair."""
    node, at, position = name.partition("@")
    site = find_site(model.graph, node, model.widths)
    if not at:
        return NodeAt(site)
    is_index, spans = position.isascii() and position.isdigit(), span_names(pairs)
    for i, (roles, tokens) in enumerate(zip(pairs.roles, pairs.clean, strict=True)):
        if position not in roles and position not in spans and not (is_index and int(position) < len(tokens)):
            raise PairsError(
                f"pair {i}: {name!r} names position {position!r}, which is not a role or span of the pair (its roles: "
                f"{', '.join(roles) or 'none'}) and no index into its {len(tokens)} tokens"
            )
    return NodeAt(site, position)
