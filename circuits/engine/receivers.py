"""The receivers of path patching: the recorded streams before them, and readers with given or shifted inputs."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.hooks import Hook
from circuits.engine.inserted import hook_point
from circuits.engine.patch import Patch, Values
from circuits.engine.readers import EditedReaders, ShiftedReaders
from circuits.graph.graph import Reader

Tokens = dict[int, Bool[Tensor, "batch pos"]]
"""Reader -> tokens."""


class StreamRecorder:
    """Records the residual stream where attention, MLPs and `logits` read it: (layer, part) -> value."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture, self.seen = architecture, {}

    def hooks(self) -> list[Hook]:
        hooks: list[Hook] = []
        for block in self.architecture.blocks:
            hooks.append((block.resid_pre, lambda x, key=(block.layer, "attention"): self.seen.__setitem__(key, x)))
            mid = block.resid_mid or (block.resid_pre if block.parallel else block.mlp_in)
            if mid is not None:
                hooks.append((mid, lambda x, key=(block.layer, "mlp"): self.seen.__setitem__(key, x)))
        end = (len(self.architecture.blocks), "attention")
        hooks.append((self.architecture.final, lambda x: self.seen.__setitem__(end, x)))
        return hooks

    def at(self, reader: Reader) -> Tensor | None:
        """A reader's input before its norm; None if the pass began after it."""
        return self.seen.get((reader.layer, "mlp" if reader.part == "mlp" else "attention"))


class SetReaders(EditedReaders):
    """Readers that see a given residual stream instead of their own.

    Attributes:
        seen: reader -> the stream it sees.
        tokens: reader -> the tokens where it sees that stream; readers that are not there: everywhere.
    """

    def __init__(
        self, architecture: Architecture, seen: dict[int, Float[Tensor, "batch pos d_model"]], tokens: Tokens
    ) -> None:
        super().__init__(architecture, [r in seen for r in range(architecture.graph.n_readers)])
        self.seen, self.tokens = seen, tokens

    def inputs(
        self, readers: Sequence[int], x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch slot pos d_model"]:
        return torch.stack([self._input(r, x) for r in readers], dim=1)

    def _input(self, r: int, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        seen, tokens = self.seen[r].to(x.device), self.tokens.get(r)
        return seen if tokens is None else torch.where(tokens.to(x.device)[..., None], seen, x)


class ShiftedReceivers(ShiftedReaders):
    """Readers that see the residual stream plus a fixed shift, with the senders' own writes held at their clean values.

    A sender after one receiver and before another writes something else in this pass than in the clean run. For later
    receivers this change is subtracted, so that they see the sender's corrupted value instead.

    Attributes:
        moved: writer -> its write in this pass minus its write in the clean run, at the tokens where it is a sender.
    """

    def __init__(
        self,
        architecture: Architecture,
        shifts: dict[int, Float[Tensor, "batch pos d_model"]],
        senders: Sequence[Patch],
        clean: Values,
        first: int,
        tokens: Tokens,
    ) -> None:
        """
        Args:
            architecture, shifts: see `ShiftedReaders`.
            senders: writers, and where they send.
            clean: their values in the clean run.
            first: the layer of the first receiver; no sender below changes.
            tokens: reader -> the tokens where it receives; readers that are not there: everywhere.
        """
        here = {r: x if (at := tokens.get(r)) is None else x * at.to(x.device)[..., None] for r, x in shifts.items()}
        super().__init__(architecture, here)
        self.tokens = tokens
        self.moved: dict[int, Tensor] = {}
        names = {name: w for w, name in enumerate(self.graph.writer_names)}
        last = max(self.graph.reader_nodes[r].n_writers for r in shifts)
        self.watched: dict[tuple[int, str], list[tuple[Patch, int]]] = {}
        for sender in senders:
            site, w = sender.site, names[sender.site.name]
            if site.layer >= first and site.point != "resid_pre" and w < last:
                self.watched.setdefault((site.layer, site.point), []).append((sender, w))
        self.clean = clean

    def hooks(self) -> list[Hook]:
        watching: list[Hook] = []
        for (layer, point), senders in self.watched.items():
            block = self.architecture.blocks[layer]
            at = hook_point(self.architecture, layer, point)
            watching.append((at, lambda x, block=block, senders=senders: self._watch(block, senders, x)))
        return [*watching, *super().hooks()]

    def _watch(self, block: Block, senders: Sequence[tuple[Patch, int]], value: Tensor) -> None:
        for sender, w in senders:
            site, tokens = sender.site, sender.tokens
            before = self.clean[block.layer, site.point]
            if site.point == "z":
                moved = (block.head_writes(value) - block.head_writes(before))[:, :, site.index]
            else:
                moved = value - before
            if tokens is not None:
                moved = moved * tokens.to(moved.device)[..., None]
                moved = moved + self.moved[w] if w in self.moved else moved  # the same node at other tokens
            self.moved[w] = moved

    def inputs(
        self, readers: Sequence[int], x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch slot pos d_model"]:
        seen = super().inputs(readers, x)
        before = self.graph.reader_nodes[readers[0]].n_writers
        for w, moved in self.moved.items():
            if w < before:
                seen = seen - self._at(readers, moved.to(seen.device))
        return seen

    def _at(
        self, readers: Sequence[int], moved: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch #slot pos d_model"]:
        """A change where each of these readers receives."""
        if not any(r in self.tokens for r in readers):
            return moved[:, None]
        tokens = [self.tokens.get(r) for r in readers]
        return torch.stack([moved if at is None else moved * at.to(moved.device)[..., None] for at in tokens], dim=1)
