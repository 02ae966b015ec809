"""The activation functions of sparse dictionaries: from pre-activations to features.

With p = x W_enc + b_enc, per feature:

| name | feature | from |
|---|---|---|
| `relu` | max(p, 0) | |
| `jumprelu` | max(p, 0) where p > threshold, else 0 | Rajamanoharan et al. 2024, 2407.14435 |
| `topk` | max(p, 0) of the k largest p at each token, else 0 | Gao et al. 2024, 2406.04093 |
| `batchtopk` | max(p, 0) where p > the threshold that training found for all features together | Bussmann et al. 2024, 2412.06410 |
| `gated` | max(exp(r_mag) p' + b_enc, 0) where p' + b_gate > 0, else 0, with p' = x W_enc | Rajamanoharan et al. 2024, 2404.16014 |

A batchtopk dictionary selects the largest features of a whole batch while it is trained. A feature must not depend on the other
prompts of a batch, so only its threshold can be used, as SAELens and its authors do after training.
"""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError

NAMES = ("relu", "jumprelu", "topk", "batchtopk", "gated")
NEEDS = {"jumprelu": ("threshold",), "batchtopk": ("threshold",), "topk": ("k",), "gated": ("r_mag", "b_gate")}


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation function with its parameters.

    Attributes:
        name: one of `NAMES`.
        k: features per token, for `topk`.
        threshold: for `jumprelu` one for each feature, for `batchtopk` one for all.
        r_mag, b_gate: of the gate, for `gated`.
        rectified: whether negative values among the k largest become 0.
    """

    name: str
    k: int | None = None
    threshold: Float[Tensor, " #feature"] | None = None
    r_mag: Float[Tensor, " feature"] | None = None
    b_gate: Float[Tensor, " feature"] | None = None
    rectified: bool = True

    def check(self, n_features: int) -> None:
        """Refuses missing, superfluous or impossible parameters.

        Raises:
            InputError: with the parameter.
        """
        if self.name not in NAMES:
            raise InputError(f"activation must be one of {', '.join(NAMES)}, got {self.name!r}")
        given = [name for name in ("k", "threshold", "r_mag", "b_gate") if getattr(self, name) is not None]
        needed = NEEDS.get(self.name, ())
        if sorted(given) != sorted(needed):
            raise InputError(
                f"activation {self.name} takes {' and '.join(needed) or 'no parameters'}, got {' and '.join(given) or 'none'}"
            )
        if self.k is not None and not (type(self.k) is int and 1 <= self.k <= n_features):
            raise InputError(f"k must be a whole number from 1 to the {n_features} features, got {self.k!r}")
        for name in ("threshold", "r_mag", "b_gate"):
            value = getattr(self, name)
            sizes = ((n_features,), (1,)) if name == "threshold" else ((n_features,),)
            if value is not None and tuple(value.shape) not in sizes:
                raise InputError(f"{name} has shape {tuple(value.shape)}; expected ({n_features},)")
            if value is not None and not bool(value.isfinite().all()):
                raise InputError(f"{name} holds values that are not finite")

    def to(self, dtype: torch.dtype, device: torch.device) -> "Activation":
        """The same with other tensors."""
        moved = {
            f.name: value.to(device, dtype) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def __call__(
        self, linear: Float[Tensor, "*axes feature"], bias: Float[Tensor, " feature"]
    ) -> Float[Tensor, "*axes feature"]:
        """The features.

        Args:
            linear: x W_enc.
            bias: b_enc.
        """
        if self.name == "gated":
            assert self.r_mag is not None
            assert self.b_gate is not None
            return (linear * self.r_mag.exp() + bias).relu() * (linear + self.b_gate > 0)
        before = linear + bias
        if self.name == "topk":
            assert self.k is not None
            largest = before.topk(self.k, dim=-1, sorted=False)
            kept = largest.values.relu() if self.rectified else largest.values
            return torch.zeros_like(before).scatter(-1, largest.indices, kept)
        if self.threshold is not None:
            return before.relu() * (before > self.threshold)
        return before.relu()

    def slope(
        self, linear: Float[Tensor, "*axes feature"], bias: Float[Tensor, " feature"]
    ) -> Float[Tensor, "*axes feature"]:
        """The derivative of each feature by its own x W_enc: 0 where the feature is 0, else 1 (`exp(r_mag)` for `gated`)."""
        active = (self(linear, bias) != 0).to(linear.dtype)
        return active if self.r_mag is None else active * self.r_mag.exp()
