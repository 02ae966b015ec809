"""The activations that dictionaries are trained on: a buffer of bounded size, filled from a stream of text and shuffled.

Positions of BOS tokens, and the first of each context, are left out: there a model's activations are unlike all others (attention
sinks), and no behaviour depends on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.dictionaries.insert import Points, site_points
from circuits.dictionaries.site import DictionarySite
from circuits.dictionaries.train_spec import TrainingSpec
from circuits.dictionaries.train_text import Text, first_token, generator
from circuits.engine.hooks import Hook
from circuits.model import Model

Pair = tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_out"]]
"""What a dictionary reads and what it must reconstruct."""


@dataclass(eq=False)
class Recorder:
    """Hooks that keep what a site reads and writes; a context may be seen in several passes, one after the other.

    Attributes:
        site: the site.
        points: where the model has it.
    """

    site: DictionarySite
    points: Points
    _read: list[Tensor] = field(default_factory=list)
    _written: list[Tensor] = field(default_factory=list)
    _stream: Tensor | None = None

    @classmethod
    def at(cls, model: Model, site: DictionarySite) -> "Recorder":
        """The recorder of a site; InputError if the model does not have it."""
        return cls(site, site_points(model, site))

    def hooks(self) -> list[Hook]:
        """The hooks."""
        points = self.points
        hooks: list[Hook] = [] if points.reads is None else [(points.reads, self._on_read)]
        if points.stream is not None:
            hooks.append((points.stream, self._on_stream))
        return [*hooks, (points.at, self._on_written)]

    def taken(self) -> tuple[Float[Tensor, "context pos d_in"], Float[Tensor, "context pos d_out"]]:
        """What was recorded since the last call."""
        written = torch.cat(self._written, 1)
        read = torch.cat(self._read, 1) if self._read else written
        self._read, self._written = [], []
        return read, written

    def _on_read(self, x: Tensor) -> None:
        self._read.append(x.detach().flatten(2).to(self.points.dtype))

    def _on_stream(self, x: Tensor) -> None:
        self._stream = x.detach()

    def _on_written(self, x: Tensor) -> None:
        value = x.detach().flatten(2)
        if self._stream is not None:
            value, self._stream = value + self._stream, None
        self._written.append(value.to(self.points.dtype))


def used_positions(model: Model, tokens: Int[Tensor, "context pos"]) -> Bool[Tensor, "context pos"]:
    """The positions whose activations are used; see the module docstring."""
    used = tokens != -1 if (first := first_token(model)) is None else tokens != first
    used[:, 0] = False
    return used


@torch.no_grad()
def filled_buffer(
    model: Model, text: Text, recorders: Sequence[Recorder], spec: TrainingSpec, number: int
) -> list[Pair]:
    """The activations of one buffer's text, shuffled; for each recorder those of the same tokens.

    Args:
        model: the model.
        text: the text.
        recorders: one per dictionary.
        spec: the settings.
        number: of the buffer, counted from 0; it determines the text.
    """
    hooks = [hook for recorder in recorders for hook in recorder.hooks()]
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in recorders]
    for batch in range(number * spec.n_batches, (number + 1) * spec.n_batches):
        used = used_positions(model, text.batch(batch, hooks))
        for recorder, kept in zip(recorders, parts, strict=True):
            read, written = recorder.taken()
            outputs = written[used.to(written.device)]
            kept.append((outputs if read is written else read[used.to(read.device)], outputs))
    order = torch.randperm(sum(len(x) for x, _ in parts[0]), generator=generator(spec.seed, "order", number))
    return [_joined(kept, order) for kept in parts]


def _joined(parts: Sequence[tuple[Tensor, Tensor]], order: Int[Tensor, " token"]) -> Pair:
    read = torch.cat([x for x, _ in parts])[order.to(parts[0][0].device)]
    if all(x is y for x, y in parts):
        return read, read
    return read, torch.cat([y for _, y in parts])[order.to(parts[0][1].device)]
