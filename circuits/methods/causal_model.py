"""High-level causal models: hypotheses on what a circuit computes, as programs that can be intervened on.

(Causal abstraction: Geiger et al. 2021, 2106.02997.) `interchange_interventions` compares one with a language model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from circuits.errors import InputError
from circuits.results.provenance import frozen

Function = Callable[[Any, Mapping[str, Any]], Any]
"""(input, values of earlier variables) -> the variable's value."""


@dataclass(frozen=True, eq=False)
class CausalModel:
    """A deterministic acyclic causal model: each variable is a function of the input and of earlier variables.

    Attributes:
        variables: name -> function of (input, earlier values), in the order of computation.
        output: the variable that predicts.

    Raises:
        InputError: `output` is not a variable.

    >>> functions = {"x": lambda ab, v: ab[0], "y": lambda ab, v: ab[1], "sum": lambda ab, v: v["x"] + v["y"]}
    >>> adds = CausalModel(functions, output="sum")
    >>> adds.run((1, 2))
    {'x': 1, 'y': 2, 'sum': 3}
    >>> adds.run((1, 2), {"x": 5})["sum"]
    7
    """

    variables: Mapping[str, Function]
    output: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", frozen(self.variables))
        self.require(self.output, "output")

    def require(self, variable: str, what: str) -> None:
        """Refuses an unknown variable; `what` describes it in the message."""
        if variable not in self.variables:
            known = ", ".join(self.variables) or "none"
            raise InputError(f"{what}: the causal model has no variable {variable!r} (its variables: {known})")

    def run(self, input: Any, interventions: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The value of every variable on an input.

        Args:
            input: passed to the functions.
            interventions: variables whose value is set instead of computed.

        Raises:
            InputError: an intervention on an unknown variable, or a function that reads a later variable.
        """
        fixed = interventions or {}
        for variable in fixed:
            self.require(variable, "interventions")
        values: dict[str, Any] = {}
        for variable, function in self.variables.items():
            values[variable] = fixed[variable] if variable in fixed else function(input, _SoFar(variable, values))
        return values


class _SoFar(dict[str, Any]):
    """A copy of the values computed so far; reading a later variable raises an explanatory error."""

    def __init__(self, reader: str, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.reader = reader

    def __missing__(self, key: str) -> Any:
        raise InputError(
            f"variable {self.reader!r} reads {key!r}, which is not computed before it (computed: {', '.join(self) or 'none'});"
            " put the variables in causal order"
        )
