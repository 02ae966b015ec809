"""A model while one thread uses it: its modules, its weights, and foreign hooks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from torch import nn
from transformer_lens import TransformerBridge

from circuits.engine.exclusive import EXCLUSIVE, Keys
from circuits.engine.foreign_hooks import foreign_hooks


class Held:
    """The modules and weights of a bridge, collected once.

    Attributes:
        modules: of the bridge and of the model underneath.
        parameters: their weights.
    """

    def __init__(self, bridge: TransformerBridge) -> None:
        # Some parts of the original model are not among the bridge's own modules (GPT-2's dropout is one).
        self.modules: list[nn.Module] = list(dict.fromkeys([*bridge.modules(), *bridge.original_model.modules()]))
        weights = (each for module in self.modules for each in module._parameters.values() if each is not None)
        self.parameters: list[nn.Parameter] = list(dict.fromkeys(weights))
        self._bridge = bridge

    @property
    def keys(self) -> Keys:
        """The memory addresses of its weights, and the bridge itself, which may have none."""
        places = {_place(parameter) for parameter in self.parameters}
        return frozenset(places - {0} | {id(self._bridge)})

    @cached_property
    def foreign_hooks(self) -> tuple[str, ...]:
        """Hooks that neither a library nor this package added; see `engine.foreign_hooks`."""
        return foreign_hooks(self._bridge, self.modules)


def _place(parameter: nn.Parameter) -> int:
    try:
        return parameter.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # some quantised tensors have no memory of their own
        return id(parameter)


class _Mine(threading.local):
    """The models that this thread holds."""

    def __init__(self) -> None:
        self.held: dict[int, Held] = {}


_MINE = _Mine()


@contextmanager
def held(bridge: TransformerBridge, name: str | None = None) -> Iterator[Held]:
    """Reserves the model and all models that share its weights for this thread; waits while another thread uses them.

    Args:
        bridge: the model.
        name: its name in errors.

    Raises:
        InputError: the wait would never end; see `engine.exclusive`.
    """
    mine = _MINE.held
    if (before := mine.get(id(bridge))) is not None:
        yield before
        return
    here = Held(bridge)
    with EXCLUSIVE.hold(here.keys, name or _name(bridge)):
        mine[id(bridge)] = here
        try:
            yield here
        finally:
            mine.pop(id(bridge), None)


def _name(bridge: Any) -> str:
    return str(getattr(bridge.cfg, "model_name", None) or "the model")
