"""A sparse dictionary: features of an activation, and what each feature writes.

    x or what it adds to the stream  =  Σ_i f_i(y) · W_dec[i]  +  b_dec  +  skip(y)  +  error

f are the features of the input y (for a sparse autoencoder, y = x). `error` is the difference, so the sum holds exactly, however
well or badly the dictionary was trained.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.dictionaries.activation import Activation
from circuits.dictionaries.site import DictionarySite, parse_site
from circuits.errors import InputError
from circuits.plain_torch import plain_methods
from circuits.shown import Shown


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Dictionary(Shown):
    """A sparse autoencoder or a transcoder; made by `Dictionary.from_weights` or `circuits.load_dictionary`.

    Attributes:
        site: where it reads and writes; see `circuits.dictionaries.site`.
        W_enc, b_enc: the encoder.
        W_dec, b_dec: the decoder; row i of `W_dec` is what feature i writes.
        activation: from x W_enc and b_enc to features.
        skip: a transcoder's linear path around the features, from the encoder's input; None: none.
        b_in: subtracted from the encoder's input; None: nothing.
        model: the model it was trained on, if its file says so.
        source: where it came from.

    >>> eye = torch.eye(2)
    >>> dictionary = Dictionary.from_weights("mlp_out.0", eye, torch.zeros(2), eye, torch.zeros(2))
    >>> dictionary.encode(torch.tensor([3.0, -1.0])), dictionary.n_features
    (tensor([3., 0.]), 2)
    """

    site: DictionarySite
    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, " d_out"]
    activation: Activation
    skip: Float[Tensor, "d_out d_in"] | None = None
    b_in: Float[Tensor, " d_in"] | None = None
    model: str | None = None
    source: str = "weights"

    @classmethod
    def from_weights(
        cls, site: str | DictionarySite, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor,
        activation: str | Activation = "relu", skip: Tensor | None = None, *, k: int | None = None,
        threshold: Tensor | float | None = None, r_mag: Tensor | None = None, b_gate: Tensor | None = None,
        b_in: Tensor | None = None, model: str | None = None, source: str = "weights",
    ) -> "Dictionary":  # fmt: skip
        """A dictionary from its tensors.

        Args:
            site: where it reads and writes, such as `mlp_out.3` or `transcoder.3`; see `circuits.dictionaries.site`.
            W_enc: [d_in, feature].
            b_enc: [feature].
            W_dec: [feature, d_out].
            b_dec: [d_out].
            activation: `relu`, `jumprelu`, `topk`, `batchtopk`, `gated`, or an `Activation`; see `circuits.dictionaries.activation`.
            skip: for a transcoder, [d_out, d_in] as the libraries store it: it writes `skip @ x`.
            k: for `topk`.
            threshold: for `jumprelu` and `batchtopk`.
            r_mag, b_gate: for `gated`.
            b_in: subtracted from the encoder's input: SAELens' `apply_b_dec_to_input` is `b_in=b_dec`.
            model: the name of the model it was trained on; other models refuse it. None: any of the same sizes.
            source: where it came from.

        Raises:
            InputError: tensors whose shapes do not belong together, values that are not finite, or an invalid option.
        """
        if isinstance(activation, str):
            limit = None if threshold is None else torch.as_tensor(threshold, dtype=W_enc.dtype).detach().reshape(-1)
            activation = Activation(activation, k, limit, r_mag, b_gate)
        elif isinstance(activation, Activation) and any(x is not None for x in (k, threshold, r_mag, b_gate)):
            raise InputError("activation has its own parameters; leave out k, threshold, r_mag and b_gate")
        given = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "skip": skip, "b_in": b_in}
        where = parse_site(site)
        for name, tensor in given.items():
            if not isinstance(tensor, Tensor) and (tensor is not None or name not in ("skip", "b_in")):
                raise InputError(f"{where}: {name} must be a tensor, got {type(tensor).__name__}")
        tensors = {name: tensor.detach() for name, tensor in given.items() if tensor is not None}
        _check(where, tensors)
        activation.check(W_enc.shape[1])
        return cls(where, **tensors, activation=activation, model=model, source=source)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what it decomposes."""
        return self.W_dec.shape[1]

    def encode(self, x: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes feature"]:
        """The features of an input, in the dictionary's dtype."""
        return self.activation(self.encoder_input(x) @ self.W_enc, self.b_enc)

    def decode(
        self, f: Float[Tensor, "*axes feature"], x: Float[Tensor, "*axes d_in"] | None = None
    ) -> Float[Tensor, "*axes d_out"]:
        """The sum of the features' writes, with the decoder's bias.

        Args:
            f: features.
            x: the encoder's input; needed with a skip, whose write is then included.

        Raises:
            InputError: the dictionary has a skip, and `x` is missing.
        """
        total = f.to(self.W_dec.dtype) @ self.W_dec + self.b_dec
        if self.skip is None:
            return total
        if x is None:
            raise InputError("this dictionary has a skip: decode(f, x) needs the encoder's input")
        return total + self.skipped(x)

    def skipped(self, x: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes d_out"]:
        """The write of the skip."""
        assert self.skip is not None
        return x.to(self.skip.dtype) @ self.skip.T

    def encoder_input(self, x: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes d_in"]:
        """The input in the dictionary's dtype, less `b_in`."""
        x = x.to(self.W_enc.dtype)
        return x if self.b_in is None else x - self.b_in

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> "Dictionary":
        """The same dictionary in another dtype, on another device."""
        device = torch.device(device)
        tensors = {name: tensor.to(device, dtype) for name, tensor in _tensors(self)}
        return replace(self, **tensors, activation=self.activation.to(dtype, device))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the site, the activation and all tensors."""
        digest = hashlib.sha256(f"{self.site.name} {self.activation.name} {self.activation.k}".encode())
        parts = [
            *_tensors(self),
            *((n, t) for n in ("threshold", "r_mag", "b_gate") if (t := getattr(self.activation, n)) is not None),
        ]
        for name, tensor in parts:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What identifies it, as JSON values."""
        return {
            "site": self.site.name, "features": self.n_features, "activation": self.activation.name, "k": self.activation.k,
            "skip": self.skip is not None, "model": self.model, "source": self.source, "sha256": self.digest,
        }  # fmt: skip

    def __repr__(self) -> str:
        skip = ", with a skip" if self.skip is not None else ""
        return f"Dictionary({self.site.name}, {self.n_features} features, {self.activation.name}{skip})"

    def rows(self) -> list[dict[str, Any]]:
        """What is known of it, as names and values."""
        return [{"name": name, "value": value} for name, value in self.to_dict().items()]


def _tensors(dictionary: Dictionary) -> Iterator[tuple[str, Tensor]]:
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "skip", "b_in"):
        tensor = getattr(dictionary, name)
        if tensor is not None:
            yield name, tensor


def _check(site: DictionarySite, tensors: Mapping[str, Tensor]) -> None:
    """Refuses shapes that do not belong together, and values that are not finite."""
    if tensors["W_enc"].ndim != 2 or tensors["W_dec"].ndim != 2:
        raise InputError(f"{site}: W_enc and W_dec must be matrices")
    (d_in, features), d_out = tensors["W_enc"].shape, tensors["W_dec"].shape[1]
    wanted = {
        "W_enc": (d_in, features), "b_enc": (features,), "W_dec": (features, d_out), "b_dec": (d_out,), "skip": (d_out, d_in),
        "b_in": (d_in,),
    }  # fmt: skip
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise InputError(f"{site}: {name} must hold floating-point numbers, got {tensor.dtype}")
        if tuple(tensor.shape) != wanted[name]:
            raise InputError(
                f"{site}: {name} has shape {tuple(tensor.shape)}; with W_enc {(d_in, features)}, expected {wanted[name]}"
            )
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{site}: {name} holds values that are not finite (NaN or infinity)")
    if features == 0 or d_in == 0 or d_out == 0:
        raise InputError(f"{site}: a dictionary needs at least one feature, got W_enc of shape {(d_in, features)}")
    if not site.is_transcoder and d_in != d_out:
        raise InputError(
            f"{site}: it reads {d_in} numbers and writes {d_out}; an autoencoder writes what it reads (a transcoder has a site such "
            "as transcoder.3)"
        )
    if "skip" in tensors and not site.is_transcoder:
        raise InputError(f"{site}: only a transcoder has a skip")
