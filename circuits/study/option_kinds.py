"""Whether a value of a TOML file is of the kind that a parameter's annotation asks for, and how both are told."""

import math
import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin


def choices(wanted: Any) -> tuple[Any, ...]:
    """The kinds that an annotation allows."""
    return get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)


def fits(value: Any, wanted: Any) -> bool:
    for kind in choices(wanted):
        if kind in (str, bool, int) and type(value) is kind:
            return True
        if kind is float and (type(value) is int or (isinstance(value, float) and math.isfinite(value))):
            return True
        if get_origin(kind) is Sequence and isinstance(value, list) and all(isinstance(one, str) for one in value):
            return True
    return False


def spelled(wanted: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number"}
    told = [names.get(kind, "a list of names" if get_origin(kind) is Sequence else "") for kind in choices(wanted)]
    return " or ".join(name for name in dict.fromkeys(told) if name)


def kind_of(value: Any) -> str:
    names = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date")
