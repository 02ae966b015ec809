"""The logits of a model with some edges ablated, kept up to date while edges are removed and restored.

`ablate` computes a whole forward pass for every circuit. Here a change of an edge u -> r computes again only r's node and
what it reaches along kept edges:

    input_r   +=  ±(replacement_u - current_u)        at the changed edge
    input_r'  +=  new write - old write               at every kept edge behind a node that was computed again

Nodes without a kept path to `logits` are never computed. A node is computed at the answers only, unless a key or value reader
further on reads more. Nothing in a pair's common prefix is computed at all. Values that are still the clean run's take no
memory of their own.

Where an architecture has no description node by node (see `engine.node_functions`), `engine.layers` computes whole layers
from the changed one on; `by_node` says which.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError

Edge = tuple[int, int]
"""(writer, reader), as places in the graph's order."""


TRIAL_BYTES = 256 * 2**20
"""What the rows of one trial may take, roughly."""


class Trial(ABC):
    """The outcome of switching edges, before it is decided how many of the switches stay."""

    @abstractmethod
    def logits(self, rows: slice) -> Float[Tensor, "row pair d_out"]:
        """Logits of some rows: in row i, the switches 0 … i are made."""

    @abstractmethod
    def accept(self, row: int) -> None:
        """Makes the switches 0 … row. A trial can be accepted once, while it is the latest."""


class Incremental(ABC):
    """A model with some edges ablated, on some pairs.

    Attributes:
        by_node: whether single nodes are computed again; if not, whole layers from the changed one on.
        keep: True at the edges that are not ablated.
    """

    by_node: bool
    keep: Bool[np.ndarray, "writer reader"]

    @abstractmethod
    def rows_worth(self, reader: int) -> int:
        """How many rows a trial of edges into this reader should have at most: more cost memory, or save no time."""

    @abstractmethod
    def logits(self) -> Float[Tensor, "pair d_out"]:
        """The logits with the edges outside `keep` ablated."""

    @abstractmethod
    def trial(self, switches: Sequence[Sequence[Edge]]) -> Trial:
        """What switching edges (ablating kept ones, restoring ablated ones) would give: nested, all in one pass.

        Args:
            switches: row i is the state after the switches 0 … i; no edge may occur twice.
        """

    @abstractmethod
    def reset(self, keep: Bool[Tensor, "writer reader"]) -> None:
        """Ablates exactly the edges outside `keep`. What was there before leaves no trace, not even in the last bit."""

    def switch(self, edges: Sequence[Edge]) -> None:
        """Switches edges and keeps it so."""
        self.trial([edges]).accept(0)


def switched_rows(switches: Sequence[Sequence[Edge]]) -> dict[Edge, int]:
    """From which row on each edge is switched."""
    rows = {edge: row for row, edges in enumerate(switches) for edge in edges}
    if len(rows) < sum(map(len, switches)):
        raise InputError("an edge occurs twice among the switches of one trial; try them one after the other")
    return rows
