"""What every public function that takes a model does first: it keeps other threads from it, refuses hooks that are not the
model's own, and puts torch in its default state."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

from circuits.arguments import kinds_check
from circuits.engine.foreign_hooks import refuse_hooks
from circuits.engine.held import held
from circuits.model import Model
from circuits.plain_torch import plain_state

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def using(model: Model) -> Iterator[None]:
    """The model for this thread alone; a thread that comes second waits. Calls may be nested.

    Raises:
        InputError: it has hooks of somebody else, and does not allow them; or waiting would never end.
    """
    with plain_state(), held(model.bridge, model.name) as here:
        if not model.allow_hooks:
            refuse_hooks(here.foreign_hooks, model.name)
        yield


def hooks_of(model: Model) -> tuple[str, ...]:
    """Hooks of somebody else that a model has and allows, as text."""
    if not model.allow_hooks:
        return ()
    with held(model.bridge, model.name) as here:
        return here.foreign_hooks


def on_model(function: Callable[P, R]) -> Callable[P, R]:
    """A public function that runs a model which it is given."""
    check = kinds_check(function)

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        check(args, kwargs)
        with ExitStack() as stack:
            for given in (*args, *kwargs.values()):
                if isinstance(given, Model):
                    stack.enter_context(using(given))
            return function(*args, **kwargs)

    return alone
