"""The logits of a model with any set of edges ablated.

A reader sees the residual stream plus, for every ablated edge into it, (replacement - current) of that edge's writer,
where `current` is the writer's output in the same run. One forward pass computes everything: each reader's edited input
goes through the norm and its projection, and replaces the values computed from the unedited stream.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.capture import Writes
from circuits.engine.differences import CollectedDifferences, live_readers
from circuits.engine.hooks import run
from circuits.engine.prefix import Suffix
from circuits.graph.graph import Reader


class Ablated(CollectedDifferences):
    """The hooks of one ablated forward pass, with the differences (replacement - current) that they collect.

    A reader with ablated edges M and kept edges K sees one of two sums, which are equal up to rounding:

        x + Σ_M (replacement - current)        or        constants + Σ replacement + Σ_K (current - replacement)

    The sum with fewer terms is used. If few edges are kept, the first sum would cancel large values, and a norm would
    amplify their rounding errors. `ablated_logits` explains `edit`.
    """

    def __init__(
        self,
        architecture: Architecture,
        replacement: Writes,
        keep: Bool[Tensor, "writer reader"] | Bool[Tensor, "batch writer reader"],
        edit: str = "live",
    ) -> None:
        graph, embedding = architecture.graph, replacement.embedding
        # Masks stay on the host, where they decide what is computed: an accelerator is never waited for within a pass.
        keep = keep.cpu()
        missing = (graph.edge_mask & ~keep).transpose(-1, -2)
        anywhere = missing if missing.ndim == 2 else missing.any(0)
        lacking = anywhere.any(1).tolist()
        if edit == "live":
            alive = live_readers(architecture, keep if keep.ndim == 2 else keep.any(0))
            edited = [a and b for a, b in zip(lacking, alive, strict=True)]
        else:
            edited = lacking if edit == "lacking" else [True] * graph.n_readers
        n_writers = torch.tensor([reader.n_writers for reader in graph.reader_nodes])
        batch, pos, d_model = embedding.shape
        difference = embedding.new_empty(batch, graph.n_writers, pos, d_model)
        super().__init__(architecture, edited, replacement, 2 * missing.sum(-1) > n_writers, difference)
        self.missing = missing

    def inputs(
        self, readers: Sequence[int], x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch slot pos d_model"]:
        reader = self.graph.reader_nodes[readers[0]]
        missing, turned = self.missing[..., readers, : reader.n_writers], self.from_replacement[..., readers]
        signs = missing.to(x.dtype) - turned[..., None].to(x.dtype)
        difference = self.difference[:, : reader.n_writers]
        used = signs.flatten(0, -2).any(0)
        if 4 * int(used.sum()) < reader.n_writers:
            columns = used.nonzero()[:, 0]
            signs, difference = signs[..., columns], difference[:, columns]
        batch, _, pos, d_model = difference.shape
        start = self._start(reader, turned, x.to(difference.device)).flatten(2).expand(batch, len(readers), -1)
        signs = signs.to(difference.device).expand(batch, *signs.shape[-2:])
        summed = torch.baddbmm(start, signs, difference.flatten(2)).reshape(batch, len(readers), pos, d_model)
        return summed.to(x.device)

    def _start(self, reader: Reader, turned: Tensor, x: Tensor) -> Float[Tensor, "batch slot pos d_model"]:
        """The stream to which the differences are added; one slot if it is the same for all readers."""
        if not bool(turned.any()):
            return x[:, None]
        replaced = self.replaced_at(reader)[:, None]
        return (
            replaced
            if bool(turned.all())
            else torch.where(turned.to(x.device).reshape(-1, turned.shape[-1], 1, 1), replaced, x[:, None])
        )


def ablated_logits(
    architecture: Architecture,
    suffix: Suffix,
    replacement: Writes,
    keep: Bool[Tensor, "writer reader"] | Bool[Tensor, "batch writer reader"],
    edit: str = "live",
    tokens: Int[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "read d_out"]:
    """Logits on the clean prompts with every edge outside `keep` ablated.

    Args:
        architecture: the model.
        suffix: the prompts.
        replacement: the replacement values of ablated writers.
        keep: True at the kept edges; with a leading batch axis, one circuit per prompt.
        edit: the readers to recompute. `live`: those that lack an edge and can change the logits; `lacking`: also those
            of nodes that do not reach `logits`, so that these nodes' outputs are the circuit's too; `all`: every reader
            (for the check at loading).
        tokens: see `run`.
    """
    ablation = Ablated(architecture, replacement, keep, edit)
    with torch.no_grad():
        return run(architecture, suffix.clean_tokens, ablation.hooks(), tokens)
