"""Annotations are checked in some calls of each function: checking a call takes longer than most functions do.

The import hook of jaxtyping (`--jaxtyping-packages` in pyproject.toml) decorates every function of the packages with
`jaxtyping.jaxtyped`. `check_some_calls` puts `jaxtyped_in_some_calls` in its place: in each test a function's first calls are
checked, and then every hundredth. Functions within functions, made anew at each call, are counted together.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType
from typing import Any

import jaxtyping

FIRST, EVERY = 3, 100
jaxtyped = jaxtyping.jaxtyped
calls: dict[int, int] = {}
"""In the test at work, by the identity of the function's code."""


def check_some_calls() -> None:
    """Before the packages are imported."""
    jaxtyping.jaxtyped = partial(partial, jaxtyped_in_some_calls)


def jaxtyped_in_some_calls(decorated: Any, *, typechecker: Callable[..., Any]) -> Any:
    """What `jaxtyped(typechecker=…)` decorates, as it does: functions, what stands for functions in classes, and dataclasses."""
    again = partial(jaxtyped_in_some_calls, typechecker=typechecker)
    if isinstance(decorated, classmethod | staticmethod):
        return type(decorated)(again(decorated.__func__))
    if isinstance(decorated, property):
        return property(*(part and again(part) for part in (decorated.fget, decorated.fset, decorated.fdel)))
    if dataclasses.is_dataclass(decorated) and "__init__" in vars(decorated):
        decorated.__init__ = again(decorated.__init__)
    if not inspect.isfunction(decorated) or not decorated.__annotations__:
        return decorated
    checked, code = None, id(decorated.__code__)

    def call(*args: Any, **named: Any) -> Any:
        nonlocal checked
        number = calls[code] = calls.get(code, 0) + 1
        if number > FIRST and number % EVERY:
            return decorated(*args, **named)
        checked = checked or jaxtyped(decorated, typechecker=typechecker)
        return checked(*args, **named)

    # The package passes over its type checks, where it looks for the author of a hook, or for the caller that a warning names.
    checks = {**globals(), "__name__": "jaxtyping.some_calls"}
    return wraps(decorated)(FunctionType(call.__code__, checks, "call", None, call.__closure__))
