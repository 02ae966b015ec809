"""Makes results independent of the caller's settings of torch.

`torch.inference_mode()` makes tensors that autograd refuses later; `torch.set_default_device` puts tensors on another device than
the model; `torch.set_default_dtype` changes rounding and random draws; `torch.autocast` lowers the precision. So every public
function and every method of a result runs in torch's default state, and restores the caller's afterwards.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from circuits.arguments import kinds_check

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

CPU = torch.device("cpu")
AUTOCAST = ("cpu", "cuda", "xpu", "mps")
"""Kinds of devices that have an autocast."""
LEFT_ALONE = ("__new__", "__setattr__", "__delattr__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")
"""Methods that `plain_methods` does not change, since they compute nothing."""


def is_plain() -> bool:
    """Whether torch is in its default state in this thread."""
    new = torch.empty(0)
    default = new.dtype is torch.float32 and _FLOAT32.users == 0 and new.device == CPU and not new.is_inference()
    return default and torch.is_grad_enabled() and not any(map(torch.is_autocast_enabled, AUTOCAST))


@contextmanager
def plain_state() -> Iterator[None]:
    """Torch in its default state: with gradients, and with new tensors in float32 on the CPU."""
    if is_plain():
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # which enables gradients, too
        if torch.empty(0).device != CPU:
            stack.enter_context(_replaced_device())
        for kind in filter(torch.is_autocast_enabled, AUTOCAST):
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_FLOAT32.default())
        yield


class _Float32Default:
    """The default dtype, which is global to the process: the first user sets float32, the last one restores the dtype before."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = threading.Lock(), 0, torch.float32

    @contextmanager
    def default(self) -> Iterator[None]:
        with self.lock:
            if self.users == 0:
                self.before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if self.users == 0:
                    torch.set_default_dtype(self.before)


_FLOAT32 = _Float32Default()
_LOCAL = threading.local()


@contextmanager
def _replaced_device() -> Iterator[None]:
    before = getattr(_LOCAL, "replaced", False)
    _LOCAL.replaced = True
    try:
        with torch.device(CPU):
            yield
    finally:
        _LOCAL.replaced = before


@contextmanager
def users_device(device: torch.device) -> Iterator[None]:
    """For a user's function if a default device was set: new tensors are on the device of its input."""
    if not getattr(_LOCAL, "replaced", False):
        yield
        return
    with torch.device(device):
        yield


def plain_torch(function: Callable[P, R]) -> Callable[P, R]:
    """A public function that runs in torch's default state; arguments of another kind are refused by name.

    >>> @plain_torch
    ... def third():
    ...     return torch.ones(1) / 3
    >>> with torch.inference_mode(), torch.device("meta"):
    ...     third().is_inference(), third().device.type
    (False, 'cpu')
    """

    check, plain = kinds_check(function), _plain(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check(args, kwargs)
        return plain(*args, **kwargs)

    return checked


def _plain(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def plain(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_plain():
            return function(*args, **kwargs)
        with plain_state():
            return function(*args, **kwargs)

    return plain


def plain_methods(cls: C) -> C:
    """Decorates a class: its public methods and properties run in torch's default state, and it holds no inference tensors."""
    for name, member in list(vars(cls).items()):
        if name in LEFT_ALONE or (name.startswith("_") and not name.endswith("__")):
            continue
        if name == "__init__":
            setattr(cls, name, _with_normal_tensors(member))
        elif isinstance(member, staticmethod | classmethod):
            setattr(cls, name, type(member)(_plain_member(member.__func__)))
        elif isinstance(member, property):
            setattr(cls, name, property(_plain(member.fget), doc=member.__doc__))  # pyright: ignore[reportArgumentType]
        elif isinstance(member, functools.cached_property):
            member.func = _plain(member.func)
        elif inspect.isfunction(member):
            setattr(cls, name, _plain_member(member))
    return cls


def _plain_member(function: Callable[..., Any]) -> Callable[..., Any]:
    return function if inspect.isgeneratorfunction(function) else _plain(function)


def _with_normal_tensors(init: Callable[..., None]) -> Callable[..., None]:
    """An `__init__` that copies inference tensors, which cannot be used with gradients."""
    plain = _plain(init)

    @functools.wraps(init)
    def normal(*args: Any, **kwargs: Any) -> None:
        plain(*map(_normal, args), **{name: _normal(value) for name, value in kwargs.items()})

    return normal


@plain_torch
def _cloned(tensor: Tensor) -> Tensor:
    return tensor.clone()


def _normal(value: Any) -> Any:
    return _cloned(value) if isinstance(value, Tensor) and value.is_inference() else value
