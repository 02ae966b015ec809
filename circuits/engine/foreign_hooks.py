"""Hooks on a model that neither a library nor this package added.

Such a hook changes every score. TransformerLens, transformers and accelerate add hooks too; those belong to the model,
and are recognised by the module that defines their function. The check covers TransformerLens' hook points, torch's
forward and backward hooks of every module (also global ones), and functions that replace a module's `forward`.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from transformer_lens import TransformerBridge
from transformer_lens.hook_points import HookPoint

from circuits.errors import InputError

OURS = ("transformer_lens.model_bridge.", "transformers.", "accelerate.", "torch.nn.utils.", "circuits.engine.")
"""Modules whose functions belong to a model. Not all of TransformerLens: users may add its patching functions."""
DECORATORS = ("jaxtyping.", "contextlib.", "functools.", "torch.")
"""Modules whose wrappers are unwrapped to the function inside."""
KINDS = {
    "_forward_hooks": "forward",
    "_forward_pre_hooks": "forward pre",
    "_backward_hooks": "backward",
    "_backward_pre_hooks": "backward pre",
}
GLOBAL = {
    "_global_forward_hooks": "forward",
    "_global_forward_pre_hooks": "forward pre",
    "_global_backward_hooks": "backward",
    "_global_backward_pre_hooks": "backward pre",
}


def foreign_hooks(bridge: TransformerBridge, modules: Iterable[nn.Module]) -> tuple[str, ...]:
    """Describes each foreign hook as text: its place, its kind and its function.

    Args:
        bridge: the model.
        modules: all modules of the model.
    """
    everywhere = [
        f"all modules: {kind} {_called(hook)}"
        for attribute, kind in GLOBAL.items()
        for hook in getattr(torch_module, attribute, {}).values()
        if not _belongs(hook)
    ]
    others = [(module, kind, hook) for module in modules for kind, hook in _hooks(module) if not _belongs(hook)]
    if not others:
        return tuple(everywhere)
    names = _names(bridge)
    here = [f"{names.get(module, type(module).__name__)}: {kind} {_called(hook)}" for module, kind, hook in others]
    return (*dict.fromkeys(everywhere + here),)


def on_points(bridge: TransformerBridge) -> bool:
    """Whether a hook point has a foreign hook. (TransformerLens has some of its own, on OPT's MLPs.)"""
    handles = (handle for point in bridge.hook_dict.values() for handle in (*point.fwd_hooks, *point.bwd_hooks))
    return any(not _belongs(handle.user_hook) for handle in handles)


def refuse_hooks(hooks: tuple[str, ...], name: str) -> None:
    """Raises InputError, naming the hooks, if there are any."""
    if hooks:
        more = f" and {len(hooks) - 3} more" if len(hooks) > 3 else ""
        raise InputError(
            f"{name} has hooks that would change every result: {'; '.join(hooks[:3])}{more}. Remove them (handle.remove(), or "
            "bridge.reset_hooks(including_permanent=True)), or load the model with load_model(…, allow_hooks=True): results "
            "then name them in their provenance"
        )


def _hooks(module: nn.Module) -> Iterator[tuple[str, Any]]:
    own = vars(module)
    wrapped: set[int] = set()
    if isinstance(module, HookPoint):
        for kind, handles in (("forward", module.fwd_hooks), ("backward", module.bwd_hooks)):
            for handle in handles:
                if handle.hook.id in own[f"_{kind}_hooks"]:  # it may have been removed without TransformerLens
                    wrapped.add(handle.hook.id)
                    yield kind, handle.user_hook
    for attribute, kind in KINDS.items():
        if own[attribute]:
            yield from ((kind, hook) for number, hook in own[attribute].items() if number not in wrapped)
    if "forward" in own:
        yield "in place of", own["forward"]
    if "_call_impl" in own:
        yield "in place of", own["_call_impl"]
    if "_hf_hook" in own:  # accelerate calls it around `forward`; users may subclass it
        yield "accelerate", own["_hf_hook"]


def _function(hook: Any) -> Any:
    """The function that a hook finally calls."""
    while isinstance(hook, partial):
        hook = hook.func
    hook = getattr(hook, "__func__", hook)
    while hasattr(hook, "__wrapped__") and f"{_module_of(hook)}.".startswith(DECORATORS):
        hook = hook.__wrapped__
    return hook if getattr(hook, "__qualname__", None) is not None else type(hook)


def _belongs(hook: Any) -> bool:
    chained = getattr(hook, "hooks", None)  # accelerate's SequentialHook
    if isinstance(chained, tuple | list) and not all(map(_belongs, chained)):
        return False
    return f"{_module_of(_function(hook))}.".startswith(OURS)


def _module_of(function: Any) -> Any:
    """The module that defines a function; `functools.wraps` copies another's `__module__`, but not its globals."""
    own = getattr(function, "__globals__", None)
    return getattr(function, "__module__", None) if own is None else own.get("__name__")


def _called(hook: Any) -> str:
    function = _function(hook)
    return f"{_module_of(function)}.{function.__qualname__}"


def _names(bridge: TransformerBridge) -> dict[nn.Module, str]:
    """Names of modules, in the bridge or else in the model underneath."""
    names = {module: f"original_model.{name}" for name, module in bridge.original_model.named_modules()}
    names |= {module: name for name, module in bridge.named_modules() if name}
    return names | {point: name for name, point in bridge.hook_dict.items()}
