"""The weights of a TopK autoencoder or transcoder while it is trained: loss, gradient step, and the finished dictionary.

    f = ReLU(TopK_k(W_encᵀ(x - b_in) + b_enc))        ŷ = f W_dec + b_dec [+ W_skip x]        loss = |y - ŷ|² / d + |e - ê|² / 32 d

from Gao et al. 2024, 2406.04093, section 2.3 and appendix A: an autoencoder has y = x and b_in = b_dec, decoder rows of norm 1 and an
encoder that starts as their transpose. ê is the reconstruction of the error e = y - ŷ by the k_aux = d/2 strongest *dead* features
(those that were not active for `dead_after` tokens), weighted by min(dead/k_aux, 1) as in EleutherAI's sparsify. A transcoder has no
b_in, and may have a skip (Paulo et al. 2025, 2501.18823); its decoder and its skip start at 0 as theirs.

Inputs and outputs are multiplied by one number each, so that their mean squared distance from the mean is d. `finished` folds these
numbers into the weights.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.site import DictionarySite
from circuits.errors import InputError

AUXILIARY = 1 / 32
"""Weight of the auxiliary loss: alpha in Gao et al., appendix A.2."""
EPSILON = 6.25e-10
"""Adam's epsilon, from the same source (appendix A.3)."""
PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec", "skip")


@dataclass(eq=False)
class Coder:
    """A dictionary in training, in units in which inputs and outputs have variance 1 per dimension.

    Attributes:
        site: where it reads and writes.
        k: features per token.
        scale_in, scale_out: what activations of the model are multiplied by.
        weights: the parameters by name; `skip` only with a skip.
        silent: for each feature, tokens since it was last active.
        optimizer: Adam over the weights.
    """

    site: DictionarySite
    k: int
    scale_in: float
    scale_out: float
    weights: dict[str, Tensor]
    silent: Int[Tensor, " feature"]
    optimizer: torch.optim.Adam = field(init=False)

    def __post_init__(self) -> None:
        for weight in self.weights.values():
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(self.weights.values(), eps=EPSILON, foreach=False)

    @classmethod
    def start(
        cls, site: DictionarySite, features: int, k: int, skip: bool, x: Float[Tensor, "token d_in"],
        y: Float[Tensor, "token d_out"], seed: int,
    ) -> "Coder":  # fmt: skip
        """The state before the first step.

        Args:
            site: where it reads and writes.
            features: their number.
            k: features per token.
            skip: whether it has a skip.
            x, y: the first activations, which set means and scales.
            seed: of the random directions.

        Raises:
            InputError: the activations do not vary.
        """
        scale_in, scale_out = _scale(x, site), _scale(y, site)
        draw = torch.Generator().manual_seed(seed)
        directions = torch.randn(features, x.shape[1], generator=draw, dtype=x.dtype)
        directions = (directions / directions.norm(dim=1, keepdim=True)).to(x.device)
        weights = {
            "W_enc": directions.T.contiguous(),
            "b_enc": directions.new_zeros(features),
            "W_dec": directions.clone(),
        }
        weights["b_dec"] = y.mean(0) * scale_out
        if site.is_transcoder:
            weights["b_enc"] = -(x.mean(0) * scale_in) @ weights["W_enc"]
            weights["W_dec"] = directions.new_zeros(features, y.shape[1])
        if skip:
            weights["skip"] = directions.new_zeros(y.shape[1], x.shape[1])
        silent = torch.zeros(features, dtype=torch.long, device=x.device)
        return cls(site, k, scale_in, scale_out, weights, silent)

    @property
    def unit_norm(self) -> bool:
        """Whether decoder rows have norm 1: those of autoencoders."""
        return not self.site.is_transcoder

    def step(
        self, x: Float[Tensor, "token d_in"], y: Float[Tensor, "token d_out"], rate: float, dead_after: int
    ) -> float:
        """One step of Adam on a batch of the model's activations; returns the loss without its auxiliary part."""
        self.optimizer.zero_grad(set_to_none=True)
        main, auxiliary, active = self.loss(x * self.scale_in, y * self.scale_out, self.silent >= dead_after)
        (main + AUXILIARY * auxiliary).backward()
        with torch.no_grad():
            decoder = self.weights["W_dec"]
            if self.unit_norm and decoder.grad is not None:
                decoder.grad -= (decoder.grad * decoder).sum(1, keepdim=True) * decoder
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            if self.unit_norm:
                decoder /= decoder.norm(dim=1, keepdim=True).clamp(min=torch.finfo(decoder.dtype).tiny)
            self.silent += len(x)
            self.silent[active] = 0
        return float(main.detach())

    def loss(
        self, x: Float[Tensor, "token d_in"], y: Float[Tensor, "token d_out"], dead: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss and the auxiliary loss on scaled activations, and which features are active on them.

        Args:
            x, y: scaled inputs and outputs.
            dead: for each feature, whether it is dead.
        """
        w = self.weights
        before = (x if self.site.is_transcoder else x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        values, index = before.topk(self.k, dim=1, sorted=False)
        values = values.relu()
        error = y - self._decoded(values, index) - w["b_dec"]
        if "skip" in w:
            error = error - x @ w["skip"].T
        main = error.square().sum(1).mean() / y.shape[1]
        active = torch.zeros_like(dead).index_fill(0, index[values.detach() > 0], True)
        n_dead, k_aux = int(dead.sum()), max(y.shape[1] // 2, 1)
        if n_dead == 0:
            return main, main.new_zeros(()), active
        strongest, which = before[:, dead].topk(min(k_aux, n_dead), dim=1, sorted=False)
        which = dead.nonzero()[:, 0][which]
        rest = error.detach() - self._decoded(strongest.relu(), which)
        auxiliary = rest.square().sum(1).mean() / y.shape[1]
        return main, min(n_dead / k_aux, 1.0) * auxiliary, active

    def _decoded(self, values: Float[Tensor, "token k"], index: Int[Tensor, "token k"]) -> Float[Tensor, "token d_out"]:
        """Σ values · W_dec[index] for each token."""
        return embedding_bag(index, self.weights["W_dec"], per_sample_weights=values, mode="sum")

    def finished(self, model: str | None = None) -> Dictionary:
        """The dictionary of the model's own activations; the two scales are folded into the weights."""
        w = {name: weight.detach().clone() for name, weight in self.weights.items()}
        b_dec = w["b_dec"] / self.scale_out
        skip = w["skip"] * (self.scale_in / self.scale_out) if "skip" in w else None
        return Dictionary.from_weights(
            self.site, w["W_enc"] * (self.scale_in / self.scale_out), w["b_enc"] / self.scale_out, w["W_dec"], b_dec, "topk", skip,
            k=self.k, b_in=None if self.site.is_transcoder else b_dec.clone(), model=model, source="trained",
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """All that later steps depend on, as tensors by name."""
        tensors = {"silent": self.silent, "scales": torch.tensor([self.scale_in, self.scale_out], dtype=torch.float64)}
        for name, weight in self.weights.items():
            tensors[name] = weight.detach()
            for moment, value in self.optimizer.state[weight].items():
                tensors[f"{name}.{moment}"] = value
        return tensors

    @classmethod
    def restored(cls, site: DictionarySite, k: int, tensors: dict[str, Tensor], device: torch.device) -> "Coder":
        """The coder of a `state`; its tensors are copied, since rounding may depend on how a file's memory is aligned."""
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        scale_in, scale_out = tensors["scales"].tolist()
        weights = {name: tensors[name].to(device) for name in PARAMETERS if name in tensors}
        coder = cls(site, k, scale_in, scale_out, weights, tensors["silent"].to(device))
        for name, weight in coder.weights.items():
            moments = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
            coder.optimizer.state[weight] = {
                key: value if key == "step" else value.to(device) for key, value in moments.items()
            }
        return coder


def _scale(x: Float[Tensor, "token d"], site: DictionarySite) -> float:
    """The number by which the mean squared distance from the mean becomes d."""
    spread = float((x - x.mean(0)).square().sum(1).mean())
    if not (spread > 0 and math.isfinite(spread)):
        raise InputError(
            f"the activations at {site} do not vary or are not finite, so no dictionary can be trained there"
        )
    return math.sqrt(x.shape[1] / spread)
