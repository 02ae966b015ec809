"""A dictionary at its place in a model; `engine.inserted` has what it does in a pass."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from transformer_lens.hook_points import HookPoint

Key = tuple[int, str]
"""(layer, hook point or part)."""


@runtime_checkable
class Coder(Protocol):
    """What the engine uses of a dictionary; `skip` is None without a skip."""

    @property
    def W_dec(self) -> Tensor: ...

    @property
    def skip(self) -> Tensor | None: ...

    def encode(self, x: Tensor) -> Tensor: ...

    def skipped(self, x: Tensor) -> Tensor: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Insertion:
    """A dictionary at its place in a model.

    Attributes:
        place: its place in the names of nodes, `m3`.
        layer: the block.
        coder: the dictionary, in the dtype and on the device of the computation.
        at: where the value appears, and is changed.
        reads: where the encoder's input appears, before `at`; None: the encoder reads the value itself.
        stream: where the part of the value appears that is not at `at` (the middle of the stream is its beginning plus attention's
            write); None: `at` has the whole value.
    """

    place: str
    layer: int
    coder: Coder
    at: HookPoint
    reads: HookPoint | None = None
    stream: HookPoint | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its parts."""
        return ("f", "e") if self.coder.skip is None else ("f", "e", "s")

    def key(self, kind: str) -> Key:
        """The key of a part."""
        return self.layer, f"{kind}:{self.place}"
