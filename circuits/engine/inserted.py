"""Dictionaries inserted into a model, exactly: what is added to the residual stream as a sum of features and an error.

    value  =  Σ_i f_i · W_dec[i]  +  skip  +  error

The constant b_dec is part of the error: a constant cancels in every difference. A feature is replaced by adding (new - current) ·
W_dec[i] to the value, the error and the skip by adding the difference. `current` is the value in the same run. If nothing is
replaced, nothing is added, so the model is unchanged; the sum of all parts replaces the whole value.

A part's key is (layer, `f:m3`), (layer, `e:m3`) or (layer, `s:m3`); (layer, `w:m3`) is the whole value.
"""

from collections.abc import Callable, Iterable, Mapping

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuits.engine.architecture import Architecture
from circuits.engine.hooks import Hook
from circuits.engine.insertion import Insertion, Key
from circuits.errors import ModelError


class _Pass:
    """One forward pass through an insertion."""

    def __init__(self, insertion: Insertion, kinds: Iterable[str], change: Callable[["_Pass"], Tensor | None]) -> None:
        self.insertion, self.kinds, self.change = insertion, frozenset(kinds), change
        self.read: Tensor | None = None
        self.stream: Tensor | None = None
        self.parts: dict[str, Tensor] = {}

    def hooks(self) -> list[Hook]:
        insertion = self.insertion
        hooks: list[Hook] = []
        if insertion.reads is not None:
            hooks.append((insertion.reads, self._on_read))
        if insertion.stream is not None:
            hooks.append((insertion.stream, self._on_stream))
        return [*hooks, (insertion.at, self._on_value)]

    def _on_read(self, x: Tensor) -> None:
        self.read = x.detach()

    def _on_stream(self, x: Tensor) -> None:
        self.stream = x.detach()

    def _on_value(self, x: Tensor) -> Tensor | None:
        value = x.detach().flatten(2)
        whole = value if self.stream is None else value + self.stream
        self.parts = self._split(whole)
        added = self.change(self)
        self.parts, self.read, self.stream = {}, None, None
        return None if added is None else x + added.reshape(x.shape).to(x.dtype)

    def _split(self, whole: Tensor) -> dict[str, Tensor]:
        coder = self.insertion.coder
        read = whole if self.read is None else self.read
        parts = {"w": whole.to(coder.W_dec.dtype)}
        if self.kinds & {"f", "e"}:
            parts["f"] = coder.encode(read)
        if coder.skip is not None and self.kinds & {"s", "e"}:
            parts["s"] = coder.skipped(read)
        if "e" in self.kinds:
            rest = parts["w"] - parts["f"] @ coder.W_dec
            parts["e"] = rest - parts["s"] if "s" in parts else rest
        return parts

    def write(self, kind: str, difference: Tensor) -> Float[Tensor, "batch pos d_out"]:
        """What a change of a part adds to the value."""
        return difference @ self.insertion.coder.W_dec if kind == "f" else difference


def records(architecture: Architecture, keys: Iterable[Key], keep: Callable[[Key, Tensor], None]) -> list[Hook]:
    """Hooks that give the activation or the part of each key to `keep`; the run is unchanged."""
    plain, parts = _sorted(architecture, keys)
    hooks: list[Hook] = [(hook_point(architecture, *key), lambda x, key=key: keep(key, x)) for key in plain]
    for insertion, kinds in parts:

        def kept(one: _Pass, insertion: Insertion = insertion, kinds: tuple[str, ...] = kinds) -> None:
            for kind in kinds:
                keep(insertion.key(kind), one.parts[kind])

        hooks += _Pass(insertion, kinds, kept).hooks()
    return hooks


def edits(architecture: Architecture, functions: Mapping[Key, Callable[[Tensor], Tensor]]) -> list[Hook]:
    """Hooks that replace the activation or the part of each key by a function of its current value."""
    plain, parts = _sorted(architecture, functions)
    hooks: list[Hook] = [(hook_point(architecture, *key), functions[key]) for key in plain]
    for insertion, kinds in parts:

        def changed(one: _Pass, insertion: Insertion = insertion, kinds: tuple[str, ...] = kinds) -> Tensor:
            added = [one.write(k, functions[insertion.key(k)](one.parts[k]) - one.parts[k]) for k in kinds]
            return sum(added[1:], added[0])

        hooks += _Pass(insertion, kinds, changed).hooks()
    return hooks


def leaves(architecture: Architecture, keys: Iterable[Key], values: dict[Key, Tensor]) -> list[Hook]:
    """Hooks that keep the activation of each key, connected to autograd's graph. A part is a leaf of the graph: its gradient is that
    of the value, through the part's write alone."""
    plain, parts = _sorted(architecture, keys)

    def view(key: Key, x: Tensor) -> Tensor:
        values[key] = x.view_as(x)  # a separate view: see engine.capture
        return values[key]

    hooks: list[Hook] = [(hook_point(architecture, *key), lambda x, key=key: view(key, x)) for key in plain]
    for insertion, kinds in parts:

        def connected(one: _Pass, insertion: Insertion = insertion, kinds: tuple[str, ...] = kinds) -> Tensor:
            added = []
            for kind in kinds:
                leaf = values[insertion.key(kind)] = one.parts[kind].detach().clone().requires_grad_()
                added.append(one.write(kind, leaf - one.parts[kind].detach()))
            return sum(added[1:], added[0])

        hooks += _Pass(insertion, kinds, connected).hooks()
    return hooks


def hook_point(architecture: Architecture, layer: int, point: str) -> HookPoint:
    """The hook point of an activation; raises ModelError if the model has none."""
    hook = getattr(architecture.blocks[layer], point)
    if hook is None:
        raise ModelError(f"layer {layer} of this model has no hook for {point}, so it cannot be patched there")
    return hook


def whole_key(key: Key) -> Key:
    """The key of the whole value that a part belongs to; of an activation, itself."""
    kind, _, place = key[1].rpartition(":")
    return (key[0], f"w:{place}") if kind else key


def _sorted(
    architecture: Architecture, keys: Iterable[Key]
) -> tuple[list[Key], list[tuple[Insertion, tuple[str, ...]]]]:
    """Keys of activations, and insertions with the kinds of their parts."""
    plain: list[Key] = []
    parts: dict[str, list[str]] = {}
    for key in sorted(set(keys)):
        kind, _, place = key[1].rpartition(":")
        if kind:
            parts.setdefault(place, []).append(kind)
        else:
            plain.append(key)
    return plain, [(architecture.inserted[place], tuple(kinds)) for place, kinds in parts.items()]
