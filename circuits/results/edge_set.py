"""Sets of edges: union, intersection, difference, complement and comparison."""

from abc import ABC, abstractmethod
from typing import TypeVar

from jaxtyping import Bool
from torch import Tensor

from circuits.graph.graph import Graph
from circuits.plain_torch import plain_methods

S = TypeVar("S", bound="EdgeSet")


@plain_methods
class EdgeSet(ABC):
    """Edges of a graph that combine with `|`, `&`, `-`, `^`, `~` and compare with `<=`; a combination is made from the left set.

    Attributes:
        graph: the graph of the edges.
        mask: True at the edges.
    """

    graph: Graph
    mask: Bool[Tensor, "writer reader"]

    @abstractmethod
    def _with(self: S, mask: Bool[Tensor, "writer reader"]) -> S:
        """This set with other edges."""

    @abstractmethod
    def _together(self: S, other: S) -> tuple[S, S]:
        """Both sets over one graph; InputError if they cannot be combined."""

    def __or__(self: S, other: S) -> S:
        a, b = self._together(other)
        return a._with(a.mask | b.mask)

    def __and__(self: S, other: S) -> S:
        a, b = self._together(other)
        return a._with(a.mask & b.mask)

    def __sub__(self: S, other: S) -> S:
        a, b = self._together(other)
        return a._with(a.mask & ~b.mask)

    def __xor__(self: S, other: S) -> S:
        a, b = self._together(other)
        return a._with(a.mask ^ b.mask)

    def __invert__(self: S) -> S:
        """The complement: the other edges of the graph."""
        return self._with(self.graph.edge_mask & ~self.mask)

    def __le__(self: S, other: S) -> bool:
        a, b = self._together(other)
        return not bool((a.mask & ~b.mask).any())
