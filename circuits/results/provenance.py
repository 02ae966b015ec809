"""The origin of a result: enough to compute it again, and to distinguish it from others."""

import math
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeVar

from circuits.errors import InputError

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.question.question import Question

Provenance = Mapping[str, Any]
PACKAGES = ("mech-circuits", "transformer-lens", "transformers", "torch", "networkx")

K = TypeVar("K")
V = TypeVar("V")


class Frozen(Mapping[K, V]):
    """An immutable mapping that can be copied and pickled, unlike Python's `MappingProxyType`.

    >>> Frozen({"seed": 0}) | {"n": 2}
    {'seed': 0, 'n': 2}
    """

    __slots__ = ("_data",)

    def __init__(self, data: Mapping[K, V]) -> None:
        self._data = dict(data)

    def __getitem__(self, key: K) -> V:
        return self._data[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"Frozen({self._data!r})"

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return {**self._data, **other}

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return {**other, **self._data}

    def __reduce__(self) -> tuple[type, tuple[dict[K, V]]]:
        return type(self), (self._data,)


def frozen(data: Mapping[str, Any] | None) -> Provenance:
    """A read-only copy."""
    return Frozen(data or {})


def required(origin: Provenance, name: str) -> str:
    """An entry of a result's provenance, such as `model`, `dtype` or `metric`; InputError if it is missing, as in some files."""
    entry = origin.get(name)
    if not isinstance(entry, str):
        raise InputError(f"the result does not record its {name}, so nothing more can be measured for it")
    return entry


def plain(value: Any) -> Any:
    """Mappings and tuples as dicts and lists, as JSON has them."""
    if hasattr(value, "items"):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def finite(value: float) -> float | None:
    """NaN and infinities as None, since JSON has neither."""
    return value if math.isfinite(value) else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def _dictionaries(model: "Model") -> dict[str, Any]:
    """What identifies inserted dictionaries; nothing without any."""
    inserted = model.architecture.inserted.values()
    return {"dictionaries": [one.coder.to_dict() for one in inserted]} if inserted else {}


def provenance(question: "Question", method: str, options: Mapping[str, Any]) -> Provenance:
    """The provenance of a result of `method` with these options."""
    from circuits.engine.placement import rounds_to_tf32
    from circuits.model_calls import hooks_of
    from circuits.question.metric_range import computed_dtype

    model, pairs = question.model, question.pairs
    dtype, computed = (str(kind).removeprefix("torch.") for kind in (model.dtype, computed_dtype(model)))
    hooks = hooks_of(model)
    return frozen(
        {
            "method": method,
            "options": dict(options),
            "metric": question.metric.name,
            "ablation": question.ablation.label,
            **question.ablation.provenance,
            "model": model.name,
            "revision": model.revision,
            "weights_sha256": model.weights_hash,
            **({"dequantised": model.dequantised} if model.dequantised is not None else {}),
            "dtype": dtype,
            **({"computed_in": computed} if computed != dtype else {}),
            "device": model.device.type,
            "task": pairs.source,
            "seed": pairs.seed,
            "n_pairs": len(pairs),
            "pairs_sha256": pairs.digest(),
            **_dictionaries(model),
            "prefix_shared": question.shares_prefix,
            "versions": versions(),
        }
        | ({"hooks": list(hooks)} if hooks else {})
        | ({"tf32": True} if rounds_to_tf32(model.device) else {})
    )
