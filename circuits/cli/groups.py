"""Groups of options, and the options of all methods, as parameters of commands."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from circuits.cli.completion import choices
from circuits.methods.catalogue import DECLARED
from circuits.methods.method import Declared
from circuits.methods.options import Kind


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters may be groups of options: dataclasses, with an option per field, and `**options`, the options of
    all methods.

    A parameter called `given` gets the values of all options by name, in the order of `--help`.
    """
    parameters, of_methods, own = list[inspect.Parameter](), list[str](), list[str]()
    groups: dict[str, tuple[Any, list[str]]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            made = list(_fields(parameter.annotation))
            groups[parameter.name] = (parameter.annotation, [one.name for one in made])
        elif parameter.kind is parameter.VAR_KEYWORD:
            made = method_parameters()
            of_methods = [one.name for one in made]
        elif parameter.name == "given":
            continue
        else:
            made = [parameter.replace(kind=parameter.KEYWORD_ONLY)]
            own.append(parameter.name)
        parameters += made
    wants_given = "given" in inspect.signature(command).parameters

    @wraps(command)
    def call(**typed: Any) -> None:
        given = {name: _joined(value) if name in of_methods else value for name, value in typed.items()}
        made = {name: group(**{field: given[field] for field in names}) for name, (group, names) in groups.items()}
        asked = {name: given[name] for name in of_methods if given[name] is not None}
        command(**{name: given[name] for name in own}, **made, **asked, **({"given": given} if wants_given else {}))

    call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    call.__annotations__ = {}
    return call


def _joined(value: Any) -> Any:
    """An option that was given several times, as the text of a list."""
    return (",".join(value) or None) if isinstance(value, list | tuple) else value


def _fields(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )


def method_parameters() -> list[inspect.Parameter]:
    """A parameter for every option of any method. It is None if it is not given, so that other methods can refuse it."""
    methods = list(DECLARED.values())
    names = dict.fromkeys(option.name for method in methods for option in method.takes)
    return [_parameter(name, [method for method in methods if name in method.options]) for name in names]


def _parameter(name: str, having: list[Declared]) -> inspect.Parameter:
    """Not shown by `--help`: `circuits methods show METHOD` describes it."""
    option = having[0].options[name]
    flag = option.kind is Kind.FLAG and option.default
    known = dict.fromkeys(choice for method in having for choice in method.options[name].choices)
    shown = typer.Option(
        f"--{option.spelled}/--no-{option.spelled}" if flag else f"--{option.spelled}",
        hidden=True,
        autocompletion=choices(known) if known else None,
    )
    typed = list[str] if option.kind is Kind.DICTIONARIES else option.kind.typed
    annotation = Annotated[typed | None, shown]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
