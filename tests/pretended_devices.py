"""Several devices on a machine that has none: tensors that say where they are, and refuse to meet others elsewhere.

`cpu:1`, `cpu:2` … are pretended: torch itself takes them for `cpu`. A tensor there is a real one with a label. Every operation
on it runs on the processor and gives it on, and one on tensors with different labels raises, as it does between CUDA devices:
only `to` and `copy_` move, single numbers on the host may meet anything, and so may indices.
"""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

HOST = torch.device("cpu")
MOVES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
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
        return self.inner.tolist()

    def __repr__(self):
        return f"Placed({self.inner!r}, {self.where})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        where = _where(func, args, kwargs)
        # Its own `device`, if there is one, is what torch takes this tensor's for: whoever asks for another goes through `to`.
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        name = func._schema.name
        if name.endswith("_") and not name.endswith("__"):
            return args[0]
        if "out" in kwargs:
            return kwargs["out"]
        return tree_map(lambda x: Placed(x, where) if isinstance(x, torch.Tensor) and where != HOST else x, out)


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
