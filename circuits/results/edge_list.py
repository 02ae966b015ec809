"""The edges of a circuit as a list. It is short where tables of all pairs of writers and readers would fill the memory."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.graph.graph import Graph

Table = Literal["scores", "stderr"]
TABLES: tuple[Table, ...] = ("scores", "stderr")


@dataclass(frozen=True)
class EdgeList:
    """Edges in graph order, with their scores and standard errors.

    Attributes:
        writers, readers: indices of their ends.
        columns: `scores` and `stderr` of the edges; None if no edge has one.
    """

    writers: Int[Tensor, " edge"]
    readers: Int[Tensor, " edge"]
    columns: dict[Table, Float[Tensor, " edge"] | None]

    @classmethod
    def in_graph_order(
        cls,
        graph: Graph,
        writers: Int[Tensor, " edge"],
        readers: Int[Tensor, " edge"],
        columns: dict[Table, Float[Tensor, " edge"] | None],
    ) -> "EdgeList":
        """Edges in any order; of duplicates the first one counts.

        Raises:
            InputError: an edge that the graph does not have.
        """
        last = torch.tensor([reader.n_writers for reader in graph.reader_nodes])
        for w, r in zip(*(index[(writers >= last[readers])][:1].tolist() for index in (writers, readers)), strict=True):
            graph.edge_index(f"{graph.writer_names[w]}->{graph.reader_names[r]}")  # raises
        cells = writers * graph.n_readers + readers
        order = cells.argsort(stable=True)
        order = order[cells[order].diff(prepend=cells.new_tensor([-1])) > 0]
        return cls(writers[order], readers[order], {k: v if v is None else v[order] for k, v in columns.items()})

    def mask(self, graph: Graph) -> Bool[Tensor, "writer reader"]:
        """True at the edges."""
        return graph.mask_at(torch.stack([self.writers, self.readers], 1))

    def table(self, graph: Graph, name: Table) -> Float[Tensor, "writer reader"] | None:
        """A column as a table, NaN where there is no value; None if no edge has one."""
        column = self.columns[name]
        if column is None:
            return None
        table = torch.full((graph.n_writers, graph.n_readers), torch.nan, dtype=column.dtype)
        table[self.writers, self.readers] = column
        return table
