"""Arguments of public functions: one of another kind, or in another order, is refused by name."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, get_args, get_type_hints

from circuits.errors import InputError

Kinds = dict[str, tuple[type, ...]]


def kinds_check(function: Callable[..., Any]) -> Callable[[tuple[Any, ...], Mapping[str, Any]], None]:
    """A check of a call's arguments: each parameter that is annotated with classes of this package must get one of these.

    >>> def size(circuit: "Circuit", by: str = "edges"): ...
    >>> from circuits import Circuit, InputError
    >>> size.__globals__["Circuit"] = Circuit
    >>> try:
    ...     kinds_check(size)((["a0.h0->logits"],), {})
    ... except InputError as error:
    ...     print(error)
    size(circuit, by): circuit must be a circuits.Circuit, not a list
    """
    signature = inspect.signature(function)

    @cache
    def own_kinds() -> Kinds:
        return _own_kinds(function)

    def check(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        kinds = own_kinds()
        for name, given in {**dict(zip(signature.parameters, args, strict=False)), **kwargs}.items():
            if name in kinds and not isinstance(given, kinds[name]):
                raise InputError(_refusal(function.__name__, signature, name, kinds[name], given))

    return check


def _own_kinds(function: Callable[..., Any]) -> Kinds:
    """Parameters that take only objects of this package, and their classes."""
    kinds: Kinds = {}
    for name, hint in get_type_hints(function).items():
        classes = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if name != "return" and all(
            isinstance(each, type) and each.__module__.startswith("circuits.") for each in classes
        ):
            kinds[name] = classes
    return kinds


def _refusal(function: str, signature: inspect.Signature, name: str, kinds: tuple[type, ...], given: Any) -> str:
    order = ", ".join(each.name for each in signature.parameters.values() if each.kind is not each.KEYWORD_ONLY)
    wanted = " or ".join(f"circuits.{kind.__name__}" for kind in kinds)
    hint = "; circuits.load_model(…) gives one" if wanted == "circuits.Model" else ""
    return f"{function}({order}): {name} must be a {wanted}, not a {type(given).__name__}{hint}"
