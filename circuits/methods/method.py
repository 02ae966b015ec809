"""A method of `circuits discover`, as its own file declares it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from circuits.errors import InputError
from circuits.methods.options import CHOICE, FEATURES, RANDOM_CIRCUITS, Option, nearest
from circuits.results.recorded import Recorded

OF_PIPELINE: dict[str, tuple[str, ...]] = {
    "edges": (*(option.name for option in CHOICE), "refine", "refine_top", RANDOM_CIRCUITS.name),
    "circuit": (RANDOM_CIRCUITS.name,),
    "nodes": tuple(option.name for option in FEATURES),
}
"""Options that apply to the results of all methods alike, by what a method gives; its function does not take them."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A method's declaration, without its code.

    Attributes:
        name: name on the command line.
        gives: `edges` (scores of edges, from which a circuit is chosen), `nodes` (scores of nodes) or `circuit`.
        help: a short description.
        takes: the options. All are parameters of the function, except `refine`, `random_circuits`, and the options of `CHOICE`
            and `FEATURES`, which apply to the scores of every method alike.
        fixed: arguments that the method sets itself.
        ablation: the default ablation.
        unasked: which of `metric` and `ablation` it ignores.
        divided: whether a run can be divided among workers.
        resumable: whether it keeps a record from which a killed run can be continued.
        unrecorded: options that disable the record.
        keeps: a file of the record that stays in the run directory.
        draws: whether it draws random numbers, so that its seed matters.
        partial: whether its scores cover only some paths, so that they do not determine the nodes of a circuit.
        one_of: options of which exactly one is required.
        neurons: whether `circuits mib` scores single neurons by it: by the gradient at the clean run, or along a path of `steps`.
        remedy: how to keep the circuit from exceeding the model, if the method removes edges that hurt the metric.
    """

    name: str
    gives: str
    help: str
    takes: tuple[Option, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ablation: str = "interchange"
    unasked: tuple[str, ...] = ()
    divided: bool = False
    resumable: bool = False
    unrecorded: tuple[str, ...] = ()
    keeps: str | None = None
    draws: bool = False
    partial: bool = False
    one_of: tuple[str, ...] = ()
    neurons: bool = False
    remedy: str = ""

    @cached_property
    def options(self) -> dict[str, Option]:
        """Options by name."""
        return {option.name: option for option in self.takes}

    def keeps_record(self, options: Mapping[str, Any]) -> bool:
        """Whether a run with these options keeps a record and can be continued if it was killed."""
        return self.resumable and all(options.get(name) is None for name in self.unrecorded)

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuses options that are invalid for any model; called before a model is loaded.

        Raises:
            InputError: an option of another method, a missing option, or an invalid value.
        """
        self.check_names(options)
        self.check_values(options)

    def check_names(self, options: Mapping[str, Any]) -> None:
        """Refuses options of other methods and missing required options."""
        own = [option.spelled for option in self.takes]
        for name in options:
            if name not in self.options:
                spelled = name.replace("_", "-")
                raise InputError(
                    f"method {self.name} has no option {spelled!r}; its options: {', '.join(own)}{nearest(spelled, own)}"
                )
        for option in self.takes:
            if option.required and not options.get(option.name):
                raise InputError(f"method {self.name} needs the option {option.spelled!r}")
        if self.one_of and sum(name in options for name in self.one_of) != 1:
            choices = " or ".join(self.options[name].spelled for name in self.one_of)
            raise InputError(f"method {self.name} needs the option {choices}, not both")

    def check_values(self, options: Mapping[str, Any]) -> None:
        """Refuses invalid values; values of the wrong kind are refused elsewhere."""
        for name, value in options.items():
            self.options[name].check(value)
        for option in self.takes:
            if option.needs is not None and options.get(option.name) is not None and options.get(option.needs) is None:
                raise InputError(f"{option.spelled} needs the option {option.needs}, which is missing")
        if self.gives == "edges":
            from circuits.results.choice import check_choice

            check_choice(**{option.name: options.get(option.name, option.default) for option in CHOICE})

    def shown(self, options: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Labels and values of the options shown in a summary."""
        rows = []
        for name, option in self.options.items():
            value = options.get(name, option.default)
            if option.label and not (option.label_if_set and value == option.default):
                rows.append((option.label, ", ".join(value) if isinstance(value, list | tuple) else str(value)))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without defaults."""
        usual = {field.name: field.default for field in fields(Declared)}
        values = {name: getattr(self, name) for name in usual}
        kept = {name: value for name, value in values.items() if value and value != usual[name]}
        return {**kept, "takes": [option.to_dict() for option in self.takes]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Declared":
        lists = {name: tuple(data[name]) for name in ("unasked", "unrecorded", "one_of") if name in data}
        return cls(**{**data, **lists, "takes": tuple(map(Option.from_dict, data["takes"]))})


@dataclass(frozen=True, kw_only=True)
class Method(Declared):
    """A method with its code.

    Attributes:
        function: called with a `Question`, by name the method's options, and those of `progress`, `seed`, `store` and `workers`
            that its signature names. It returns `EdgeScores`, `NodeScores` or a `Circuit`, according to `gives`. A function of
            several stages names `timed` instead of `progress`: `timed(name, text)` is a context manager that yields a `progress`.
        stage: name of the recorded time and of the progress bar.
        notes: notes for readers of the result.
        results: what its scores are, and what the literature calls it.
    """

    function: Callable[..., Any]
    stage: tuple[str, str] = ("attribution", "scoring edges")
    notes: Callable[[Any], tuple[str, ...]] | None = None
    results: Recorded = field(default_factory=Recorded)

    def __post_init__(self) -> None:
        """Refuses a function that would not get what the declaration promises; called when the method's file is imported."""
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                raise InputError(
                    f"the function of method {self.name} takes **{parameter.name}, which hides what it uses; name each of its options, and "
                    "those of progress, timed, seed, store and workers that it uses, as parameters"
                )
        own = [name for name in self.options if name not in OF_PIPELINE[self.gives]]
        offered = {"workers": self.divided, "store": self.resumable, "seed": self.draws}
        for name in (*own, *self.fixed, *(name for name, used in offered.items() if used)):
            if name not in self.accepts:
                raise InputError(
                    f"method {self.name} declares {name!r}, which is not a parameter of its function; add it to one or the other"
                )

    @property
    def accepts(self) -> frozenset[str]:
        """Parameters of the function."""
        return frozenset(inspect.signature(self.function).parameters)
