"""Several devices on a machine that has none: tensors that say where they are, and refuse to meet others elsewhere.

`cpu:1`, `cpu:2` … are pretended: torch itself takes them for `cpu`. A tensor there is a real one with a label. Every operation
on it runs on the processor and gives it on, and one on tensors with different labels raises, as it does between CUDA devices:
only `to` and `copy_` move, single numbers on the host may meet anything, and so may indices.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

HOST = torch.device("cpu")
MOVES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
READS = (
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
)
"""Operations on which the host waits for an accelerator: their result, or its shape, depends on the values."""
INDEXES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class Placed(torch.Tensor):
    """A tensor on a pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner, where):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=HOST, requires_grad=False,
        )  # fmt: skip

    def __init__(self, inner, where):
        self.inner, self.where = inner, where

    @property
    def device(self):
        return self.where

    # Methods of its own, for inside a backward pass the mode below is off.

    def to(self, *args, **kwargs):
        where, args = _target((self, *args), kwargs)
        out = torch.Tensor.to(*args, **kwargs) if len(args) > 1 or kwargs else self
        return out if where is None else move(out, where)

    def cpu(self):
        return move(self, HOST)

    def tolist(self):
        _count("tolist")
        return self.inner.tolist()

    def __repr__(self):
        return f"Placed({self.inner!r}, {self.where})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        where = _where(func, args, kwargs)
        if func._schema.name in READS or (func._schema.name in INDEXES and _by_mask(args)):
            _count(func._schema.name)
        # Its own `device`, if there is one, is what torch takes this tensor's for: whoever asks for another goes through `to`.
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        name = func._schema.name
        if name.endswith("_") and not name.endswith("__"):
            return args[0]
        if "out" in kwargs:
            return kwargs["out"]
        return tree_map(lambda x: Placed(x, where) if isinstance(x, torch.Tensor) and where != HOST else x, out)


def _by_mask(args):
    return any(isinstance(x, Placed) and x.dtype == torch.bool for x in args[1] if x is not None)


_waits: Counter | None = None
PACKAGE = str(Path(__file__).parents[1] / "circuits")


def _count(kind):
    """Counts one wait of the host, by the line of the package that asked for it."""
    if _waits is None:
        return
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    where = "outside" if frame is None else f"{frame.f_code.co_filename[len(PACKAGE) + 1 :]}:{frame.f_code.co_name}"
    _waits[where] += 1


@contextmanager
def counted_waits():
    """Counts, by function of the package, how often the host waits for a pretended device: numbers, lists and copies that are read
    back, and operations whose result's shape depends on values."""
    global _waits
    before, _waits = _waits, Counter()
    try:
        yield _waits
    finally:
        _waits = before


def _inner(x):
    return x.inner if isinstance(x, Placed) else x


def _where(func, args, kwargs):
    """On which device an operation takes place."""
    if func in MOVES:
        return args[0].device
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if func._schema.name in INDEXES:
        tensors = [x for x in tensors if isinstance(x, Placed) or x.is_floating_point()]
    places = {x.device for x in tensors if x.ndim or isinstance(x, Placed)}
    if len(places) > 1:
        raise RuntimeError(f"{func}: expected all tensors on one device, found {sorted(map(str, places))}")
    return places.pop() if places else HOST


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, where):
        ctx.back = x.device
        inner = _inner(x).clone()
        return inner if where == HOST else Placed(inner, where)

    @staticmethod
    def backward(ctx, gradient):
        return move(gradient, ctx.back), None


def move(x, where):
    """x on another device."""
    if where == HOST != x.device:
        _count("copy")
    return x if x.device == where else _Move.apply(x, where)


class _Devices(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to:
            where, args = _target(args, kwargs)
            out = func(*args, **kwargs) if len(args) > 1 or kwargs else args[0]
            return out if where is None else move(out, where)
        where = kwargs.get("device")
        if where is not None and torch.device(where).type == "cpu":
            where = torch.device(where)
            kwargs["device"] = HOST
            out = func(*args, **kwargs)
            return out if where == HOST else move(out, where)
        return func(*args, **kwargs)


def _target(args, kwargs):
    """Where `x.to(…)` moves, and its arguments without that."""
    kwargs.pop("non_blocking", None)
    first = kwargs.pop("device", None)
    if first is None and len(args) > 1 and isinstance(args[1], str | torch.device | int):
        first, args = args[1], (args[0], *args[2:])
    if first is None and len(args) > 1 and isinstance(args[1], torch.Tensor):
        first, args = args[1].device, (args[0], args[1].dtype)
    args = tuple(a for a in args if a is not None and not isinstance(a, bool))
    return None if first is None else torch.device(first), args


@contextmanager
def pretended_devices():
    """Within, `cpu:1`, `cpu:2` … are devices of their own."""
    with _Devices():
        yield
