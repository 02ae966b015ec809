"""The logits of a model with some edges ablated, updated as edges are removed and restored.

`ablate` computes a whole forward pass for every circuit. Here a change of an edge u -> r recomputes only r's node and
the nodes that it reaches along kept edges:

    input_r   +=  ±(replacement_u - current_u)        at the changed edge
    input_r'  +=  new write - old write               at every kept edge from a recomputed node

Nodes without a kept path to `logits` are never computed. A node is computed at the answers only, unless a later key or
value reader needs more positions. Nothing in a pair's common prefix is computed. Values equal to the clean run's take
no extra memory.

If an architecture cannot be described node by node (see `engine.incremental.node_functions`),
`engine.incremental.layers` computes whole layers from the changed one on; `by_node` says which.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError

Edge = tuple[int, int]
"""(writer, reader), as indices in graph order."""


TRIAL_BYTES = 256 * 2**20
"""Approximate memory for the rows of one trial."""


class Trial(ABC):
    """The logits after switching edges, before the caller decides how many switches to keep."""

    @abstractmethod
    def logits(self, rows: slice) -> Float[Tensor, "row pair d_out"]:
        """Logits of some rows; row i has the switches 0 … i."""

    @abstractmethod
    def accept(self, row: int) -> None:
        """Applies the switches 0 … row. A trial can be accepted once, while it is the latest."""


class Incremental(ABC):
    """A model with some edges ablated, on some pairs.

    Attributes:
        by_node: True: recomputes single nodes; False: whole layers from the changed one on.
        keep: True at the edges that are not ablated.
    """

    by_node: bool
    keep: Bool[np.ndarray, "writer reader"]

    @abstractmethod
    def rows_worth(self, reader: int) -> int:
        """The most rows worth having in a trial of edges into this reader: more would cost memory or save no time."""

    @abstractmethod
    def logits(self) -> Float[Tensor, "pair d_out"]:
        """The logits with the edges outside `keep` ablated."""

    @abstractmethod
    def trial(self, switches: Sequence[Sequence[Edge]]) -> Trial:
        """Computes nested sets of switches in one pass; a switch ablates a kept edge or restores an ablated one.

        Args:
            switches: row i is the state after the switches 0 … i; each edge may occur only once.
        """

    @abstractmethod
    def reset(self, keep: Bool[Tensor, "writer reader"]) -> None:
        """Ablates exactly the edges outside `keep`; the result is bit-identical for any previous state."""

    def switch(self, edges: Sequence[Edge]) -> None:
        """Switches edges permanently."""
        self.trial([edges]).accept(0)


def switched_rows(switches: Sequence[Sequence[Edge]]) -> dict[Edge, int]:
    """The first row in which each edge is switched."""
    rows = {edge: row for row, edges in enumerate(switches) for edge in edges}
    if len(rows) < sum(map(len, switches)):
        raise InputError("an edge occurs twice among the switches of one trial; try them one after the other")
    return rows
