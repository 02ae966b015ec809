"""How good a dictionary is, on text that it was not trained on.

    explained variance = 1 - Σ |y - ŷ|² / Σ |y - ȳ|²          loss recovered = (L_ablated - L_dictionary) / (L_ablated - L)

y is what is decomposed, ȳ its mean over these tokens. L is the model's mean cross-entropy of the next token, L_dictionary the same with
y replaced by ŷ, and L_ablated with y replaced by zero or by ȳ. Both are replaced at the positions that training uses
(`train_activations`). Loss recovered is 1 if the dictionary loses nothing, and 0 if it is no better than the ablation; it can be negative.
With an ablation that does not raise the loss, it is not defined.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.insert import Points, site_points
from circuits.dictionaries.train_activations import Recorder, used_positions
from circuits.dictionaries.train_text import seen
from circuits.engine.hooks import Hook, hooked
from circuits.model import Model

Tokens = Int[Tensor, "context pos"]
Change = Callable[[Tensor, Tensor], Tensor]
"""From what the encoder reads and the value to a new value, both `[context, pos, …]`."""


@dataclass(frozen=True)
class DictionaryQuality:
    """The quality of one dictionary, or of several together.

    Attributes:
        explained_variance: of what is decomposed.
        l0: mean number of active features per token.
        dead: features that were not active for `dead_after` tokens at the end of training.
        never_active: features that are not active on any held-out token.
        loss: the model's loss, in nats per token.
        loss_dictionary: with the dictionary's reconstruction in place of the activation.
        loss_zero, loss_mean: with zero, and with the mean, in place of it.
        tokens: held-out tokens.
    """

    explained_variance: float
    l0: float
    dead: int
    never_active: int
    loss: float
    loss_dictionary: float
    loss_zero: float
    loss_mean: float
    tokens: int

    @property
    def recovered_zero(self) -> float | None:
        """Loss recovered against zero ablation; None: undefined."""
        return _recovered(self.loss, self.loss_dictionary, self.loss_zero)

    @property
    def recovered_mean(self) -> float | None:
        """Loss recovered against mean ablation; None: undefined."""
        return _recovered(self.loss, self.loss_dictionary, self.loss_mean)

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        return {**vars(self), "loss_recovered_zero": self.recovered_zero, "loss_recovered_mean": self.recovered_mean}


def _recovered(loss: float, dictionary: float, ablated: float) -> float | None:
    return (ablated - dictionary) / (ablated - loss) if ablated > loss else None


def measured_quality(
    model: Model, dictionary: Dictionary, tokens: Tokens, batch_size: int, dead: int = 0, loss: float | None = None
) -> DictionaryQuality:
    """The quality of a dictionary.

    Args:
        model: the model.
        dictionary: the dictionary.
        tokens: held-out contexts.
        batch_size: contexts per forward pass.
        dead: how many features were dead at the end of training.
        loss: the model's own loss, if it is known.
    """
    site, points = dictionary.site, site_points(model, dictionary.site)
    coder = dictionary.to(points.dtype, points.device)
    count, error, squares, active = 0, 0.0, 0.0, 0
    total = torch.zeros(points.d_out, dtype=torch.float64, device=points.device)
    ever = torch.zeros(coder.n_features, dtype=torch.bool, device=points.device)
    for read, written in _activations(model, Recorder(site, points), tokens, batch_size):
        features = coder.encode(read)
        error += float((written - coder.decode(features, read)).double().square().sum())
        squares += float(written.double().square().sum())
        total += written.double().sum(0)
        active += int((features != 0).sum())
        ever |= (features != 0).any(0)
        count += len(written)
    mean = (total / count).to(points.dtype)
    changes = (_reconstruction(coder), lambda _, y: torch.zeros_like(y), lambda _, y: mean.expand_as(y))
    reconstructed, zero, averaged = (model_loss(model, tokens, batch_size, [(points, change)]) for change in changes)
    variation = squares - count * float((total / count).square().sum())
    return DictionaryQuality(
        explained_variance=1 - error / variation, l0=active / count, dead=dead, never_active=int((~ever).sum()),
        loss=model_loss(model, tokens, batch_size) if loss is None else loss, loss_dictionary=reconstructed, loss_zero=zero,
        loss_mean=averaged, tokens=count,
    )  # fmt: skip


def loss_with(model: Model, dictionaries: Sequence[Dictionary], tokens: Tokens, batch_size: int) -> float:
    """The model's loss with the reconstructions of all these dictionaries at once."""
    changes = []
    for dictionary in dictionaries:
        points = site_points(model, dictionary.site)
        changes.append((points, _reconstruction(dictionary.to(points.dtype, points.device))))
    return model_loss(model, tokens, batch_size, changes)


def _reconstruction(coder: Dictionary) -> Change:
    return lambda read, _: coder.decode(coder.encode(read), read)


@torch.no_grad()
def model_loss(model: Model, tokens: Tokens, batch_size: int, changes: Sequence[tuple[Points, Change]] = ()) -> float:
    """The mean cross-entropy of the next token, in nats, over all positions after the first token.

    Args:
        model: the model.
        tokens: contexts.
        batch_size: contexts per forward pass.
        changes: values that are replaced, and by what.
    """
    total, count = 0.0, 0
    extra = {"use_cache": False} if hasattr(getattr(model.bridge.original_model, "config", None), "use_cache") else {}
    for batch in tokens.split(batch_size):
        used = used_positions(model, batch)
        hooks = [hook for points, change in changes for hook in _replacing(points, change, used)]
        with hooked(hooks):
            logits = model.bridge(batch, return_type="logits", **extra)[:, :-1].flatten(0, 1)
        total += float(cross_entropy(logits.float(), batch[:, 1:].flatten().to(logits.device), reduction="sum"))
        count += batch[:, 1:].numel()
    return total / count


def _replacing(points: Points, change: Change, used: Tensor) -> list[Hook]:
    """Hooks that replace a value at the used positions."""
    at: dict[str, Tensor] = {}

    def changed(x: Tensor) -> Tensor:
        value = x.flatten(2).to(points.dtype)
        whole = value + at["stream"].to(points.dtype) if points.stream is not None else value
        new = change(at["read"].flatten(2).to(points.dtype) if points.reads is not None else whole, whole)
        added = torch.where(used.to(x.device)[:, :, None], new - whole, torch.zeros_like(whole))
        return x + added.reshape(x.shape).to(x.dtype)

    hooks: list[Hook] = []
    for name in ("reads", "stream"):
        point = getattr(points, name)
        if point is not None:
            key = "read" if name == "reads" else name
            hooks.append((point, lambda x, key=key: at.update({key: x})))
    return [*hooks, (points.at, changed)]


@torch.no_grad()
def _activations(
    model: Model, recorder: Recorder, tokens: Tokens, batch_size: int
) -> Iterator[tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_out"]]]:
    """What the dictionary reads and reconstructs, at the used positions."""
    for batch in tokens.split(batch_size):
        seen(model, batch, recorder.hooks())
        used = used_positions(model, batch)
        read, written = recorder.taken()
        yield read[used.to(read.device)], written[used.to(written.device)]
