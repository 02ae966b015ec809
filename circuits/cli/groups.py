"""Groups of options, and the options of all methods, as parameters of commands."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from circuits.methods.catalogue import DECLARED
from circuits.methods.method import Declared
from circuits.methods.options import Kind, Option

PANELS = {True: "Options of methods that score nodes", False: "Options of methods that find edges"}
"""By whether a method scores nodes."""


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
        given = {parameter.name: typed[parameter.name] for parameter in parameters}
        made = {name: group(**{field: given[field] for field in names}) for name, (group, names) in groups.items()}
        asked = {name: given[name] for name in of_methods if given[name] is not None}
        command(**{name: given[name] for name in own}, **made, **asked, **({"given": given} if wants_given else {}))

    call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    call.__annotations__ = {}
    return call


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
    return [_parameter(name, [method for method in methods if name in method.options], methods) for name in names]


def _parameter(name: str, having: list[Declared], methods: list[Declared]) -> inspect.Parameter:
    kind = having[0].options[name].kind
    spelled = having[0].options[name].spelled
    scores_nodes = all(method.gives == "nodes" for method in having)
    texts: dict[str, list[str]] = {}
    for method in having:
        texts.setdefault(help_of(method.options[name]), []).append(method.name)
    panel = [method.name for method in methods if (method.gives == "nodes") is scores_nodes]
    help = " ".join(f"{_which(which, panel)}{text}" for text, which in texts.items())
    declared = [f"--{spelled}"]
    if kind is Kind.FLAG and having[0].options[name].default:
        declared = [f"--{spelled}/--no-{spelled}"]
    option = typer.Option(*declared, help=help, rich_help_panel=PANELS[scores_nodes])
    annotation = Annotated[kind.typed | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _which(having: list[str], panel: list[str]) -> str:
    """Which methods have the option; empty: all of them."""
    others = [name for name in panel if name not in having]
    if not others:
        return ""
    return f"all but {', '.join(others)}: " if len(others) < 3 < len(having) else f"{', '.join(having)}: "


def help_of(option: Option) -> str:
    """An option's help, with its bounds and its default."""
    parts = [option.help]
    if not all(choice in option.help for choice in option.choices):
        parts.append(f"One of {', '.join(option.choices)}.")
    if option.bounds:
        parts.append(f"{option.bounds[0].upper()}{option.bounds[1:]}.")
    if option.required:
        parts.append("Required.")
    if option.default is not None and option.default is not False:
        parts.append(f"Default: {'yes' if option.default is True else option.default}.")
    return " ".join(parts)
