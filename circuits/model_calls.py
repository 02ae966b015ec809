"""The decorator of public functions that take a model: it locks the model for this thread, refuses foreign hooks, and puts torch
in its default state."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

from circuits.arguments import kinds_check
from circuits.engine.foreign_hooks import refuse_hooks
from circuits.engine.held import held
from circuits.model import Model
from circuits.plain_torch import plain_state
from circuits.progress import progress_bar

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def using(model: Model) -> Iterator[None]:
    """Locks the model for this thread; other threads wait. Calls may be nested.

    Raises:
        InputError: the model has foreign hooks, which it does not allow; or waiting would never end.
    """
    with plain_state(), held(model.bridge, model.name) as here:
        if not model.allow_hooks:
            refuse_hooks(here.foreign_hooks, model.name)
        yield


def hooks_of(model: Model) -> tuple[str, ...]:
    """The foreign hooks on a model that allows them, as text."""
    if not model.allow_hooks:
        return ()
    with held(model.bridge, model.name) as here:
        return here.foreign_hooks


def on_model(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a public function that takes a model.

    Arguments of another kind are refused by name, and `progress=True` shows a bar.
    """
    check = kinds_check(function)

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        check(args, kwargs)
        with ExitStack() as stack:
            for value in (*args, *kwargs.values()):
                if isinstance(value, Model):
                    stack.enter_context(using(value))
            if kwargs.get("progress") is True:
                kwargs["progress"] = stack.enter_context(progress_bar(function.__name__))
            return function(*args, **kwargs)

    return alone
