"""Readers whose inputs are edited one by one, before the norm.

The edited input of a query, key or value reader goes through the norm and its projection, and replaces that head's
slice of the model's own result. An MLP's edited input goes through its norm; `logits` reads the stream's end.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.hooks import Hook


class EditedReaders(ABC):
    """Hooks of one forward pass in which some readers' inputs are edited.

    Attributes:
        architecture, graph: the model.
        edited: per reader, whether its input is edited.
        resid: the last seen residual stream: key -1 is the current block's input, a layer's number its MLP's input.
    """

    def __init__(self, architecture: Architecture, edited: Sequence[bool]) -> None:
        self.architecture, self.graph = architecture, architecture.graph
        self.edited = list(edited)
        self.resid: dict[int, Tensor] = {}

    @abstractmethod
    def inputs(
        self, readers: Sequence[int], x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch slot pos d_model"]:
        """The inputs of readers at one place, where the residual stream is x."""

    def hooks(self) -> list[Hook]:
        hooks: list[Hook] = []
        for block in self.architecture.blocks:
            hooks.append((block.resid_pre, lambda x, block=block: self._on_resid_pre(block, x)))
            for part in ("q", "k", "v"):
                slots = self._slots(self.graph.readers_of(block.layer, part))
                if slots:
                    edit = partial(self._edit_projection, block, part, slots)
                    hooks.append((getattr(block, part), edit))
            if block.mlp_in is not None and self._slots(self.graph.readers_of(block.layer, "mlp")):
                if block.resid_mid is not None:
                    hooks.append((block.resid_mid, lambda x, layer=block.layer: self.resid.__setitem__(layer, x)))
                hooks.append((block.mlp_in, lambda x, block=block: self._edit_mlp(block, x)))
        if self.edited[-1]:
            logits = self.graph.n_readers - 1
            hooks.append((self.architecture.final, lambda x: self.inputs([logits], x)[:, 0]))
        return hooks

    def _slots(self, readers: slice) -> list[int]:
        return [r for r in range(readers.start, readers.stop) if self.edited[r]]

    def _on_resid_pre(self, block: Block, x: Tensor) -> None:
        self.resid = {-1: x}

    def _edit_projection(self, block: Block, part: str, readers: list[int], value: Tensor) -> Tensor:
        first = self.graph.readers_of(block.layer, part).start  # type: ignore[arg-type]
        heads = [r - first for r in readers]
        x = block.attn_norm(self.inputs(readers, self.resid[-1]))
        projected = torch.einsum("bspd,sde->bpse", x, block.projection(part)[heads])
        bias = block.projection_bias(part)
        if bias is not None:
            projected = projected + bias.reshape(-1, projected.shape[-1])[heads]
        if len(heads) == value.shape[2]:
            return projected
        value = value.clone()
        value[:, :, heads] = projected
        return value

    def _edit_mlp(self, block: Block, mlp_in: Tensor) -> Tensor:
        where = -1 if block.parallel else block.layer
        reader = self.graph.readers_of(block.layer, "mlp").start
        return block.mlp_norm(self.inputs([reader], self.resid.get(where, mlp_in))[:, 0])


class ShiftedReaders(EditedReaders):
    """Readers that see the residual stream plus a fixed shift.

    Attributes:
        shifts: reader -> the shift of its input.
    """

    def __init__(self, architecture: Architecture, shifts: dict[int, Float[Tensor, "batch pos d_model"]]) -> None:
        super().__init__(architecture, [r in shifts for r in range(architecture.graph.n_readers)])
        self.shifts = shifts

    def inputs(
        self, readers: Sequence[int], x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch slot pos d_model"]:
        return torch.stack([x + self.shifts[r].to(x.device) for r in readers], dim=1)
