"""Options of methods. Each option is declared once, beside its method, and used everywhere.

The declarations define the command line (`circuits discover --help`), `--config` and study files, the checks before a model is
loaded, the variations of `circuits evaluate`, and the tables in the docs. Nothing heavy is imported here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from enum import Enum, auto
from pathlib import Path
from typing import Any

from circuits.dictionaries.names import check_named
from circuits.errors import InputError
from circuits.graph.groups import groups_in


class Kind(Enum):
    """The type of an option's value."""

    TEXT = auto()
    WHOLE = auto()
    NUMBER = auto()
    FLAG = auto()
    FILE = auto()
    METRIC = auto()
    """The name of a metric, instead of the run's own."""
    NAMES = auto()
    """A list of names, comma-separated on the command line."""
    PATHS = auto()
    """A list of paths, comma-separated on the command line; not for studies, to whose addresses their contents would not count."""
    DICTIONARIES = auto()
    """A list of SITE=PATH, each a `circuits.Dictionary`; on the command line the option may be repeated. Not for studies."""
    NODES = auto()
    """Groups of nodes joined by `+`, or a list of names."""
    POSITIONS = auto()
    """`all`, `each`, `spans`, `roles`, or a list of roles and spans."""

    @property
    def typed(self) -> type:
        """The type on the command line."""
        return {Kind.WHOLE: int, Kind.NUMBER: float, Kind.FLAG: bool, Kind.FILE: Path}.get(self, str)

    @property
    def described(self) -> str:
        """A description for error messages."""
        lists = {Kind.NAMES: "a list of names", Kind.PATHS: "a list of paths", Kind.NODES: "text or a list of names"}
        lists[Kind.DICTIONARIES] = "SITE=PATH, more than once"
        numbers = {Kind.WHOLE: "a whole number", Kind.NUMBER: "a finite number", Kind.FLAG: "true or false"}
        return (numbers | lists | {Kind.POSITIONS: lists[Kind.NODES]}).get(self, "text")

    def fits(self, value: Any) -> bool:
        """Whether a value from a TOML file is of this kind."""
        if self is Kind.NUMBER:
            return type(value) is int or (isinstance(value, float) and math.isfinite(value))
        if self in (*LISTS, Kind.NODES, Kind.POSITIONS) and isinstance(value, list):
            return all(isinstance(one, str) for one in value)
        return self not in LISTS and type(value) is (str if self is Kind.FILE else self.typed)

    def parsed(self, typed: Any) -> Any:
        """The value of a command-line argument."""
        if self is Kind.NODES:
            return names_in(typed) if any(c == "," or c.isdecimal() for c in typed) else typed
        if self is Kind.POSITIONS:
            return typed if typed in ("all", "each", "roles", "spans") else names_in(typed)
        return names_in(typed) if self in LISTS else typed


LISTS = (Kind.NAMES, Kind.PATHS, Kind.DICTIONARIES)
"""Kinds whose values are lists, written as text with commas."""


def names_in(text: str) -> list[str]:
    """Comma-separated names, without duplicates."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


@dataclass(frozen=True)
class Vary:
    """How `circuits evaluate` varies an option to test whether the result depends on it.

    Attributes:
        by: factors.
        shown: format string for the changed value.
        usual: the base value if the run did not set the option.
        below: exclusive upper bound of changed values.
        costs: whether the method takes as many times longer.
        only: an option and its values; the option is varied only if a run has one of them.
    """

    by: tuple[float, ...]
    shown: str
    usual: int | float
    below: float = math.inf
    costs: bool = False
    only: tuple[str, tuple[str, ...]] | None = None

    def values(self, options: Mapping[str, Any], name: str) -> list[tuple[str, int | float, float]]:
        """(name, value, cost in runs) of each variation of a run with these options."""
        if self.only is not None and options.get(self.only[0]) not in self.only[1]:
            return []
        own = options.get(name) or self.usual
        changed = [(type(own)(factor * own), factor if self.costs else 1.0) for factor in self.by]
        return [(self.shown.format(value), value, cost) for value, cost in changed if value < self.below]


@dataclass(frozen=True)
class Option:
    """An option of a method.

    Attributes:
        name: a Python name; written with `-` on the command line.
        kind: type of the value.
        default: None: the method decides.
        help: one line, without the default, which is added.
        at_least, at_most: inclusive bounds.
        above, below: exclusive bounds.
        choices: allowed texts.
        infinite: whether a number may be infinite.
        required: whether it must be given.
        needs: another option without which it has no effect.
        metric_units: whether it is in the metric's unit, so that it cannot be used with another metric.
        vary: how `circuits evaluate` varies it.
        label: its name in a summary; empty: not shown.
        label_if_set: show it in a summary only if it is not the default.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    at_least: int | float | None = None
    at_most: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    choices: tuple[str, ...] = ()
    infinite: bool = False
    required: bool = False
    needs: str | None = None
    metric_units: bool = False
    vary: Vary | None = None
    label: str = ""
    label_if_set: bool = False

    @property
    def spelled(self) -> str:
        """Name on the command line, without dashes."""
        return self.name.replace("_", "-")

    @property
    def bounds(self) -> str:
        """Allowed range of numbers in words; empty if unbounded."""
        low = "" if self.at_least is None else f"{self.at_least:g}"
        if self.at_most is not None:
            return f"from {low} to {self.at_most:g}"
        if low:
            return f"at least {low}"
        if self.above is None:
            return ""
        return f"above {self.above:g}" if self.below is None else f"between {self.above:g} and {self.below:g}"

    def check(self, value: Any) -> None:
        """Refuses a value that is invalid for any model.

        Raises:
            InputError: a number outside its bounds, an unknown choice, or an unknown group of nodes.
        """
        if isinstance(value, float) and not (math.isfinite(value) or (self.infinite and not math.isnan(value))):
            raise InputError(f"{self.spelled} must be a finite number, not {value}")
        if type(value) in (int, float) and not self._within(value):
            raise InputError(f"{self.spelled} must be {self.bounds}, not {value}")
        if isinstance(value, str) and self.choices and value not in self.choices:
            hint = nearest(value, self.choices)
            raise InputError(f"{self.spelled} must be one of {', '.join(self.choices)}, got {value!r}{hint}")
        if isinstance(value, str) and self.kind is Kind.NODES:
            groups_in(value)
        if self.kind is Kind.DICTIONARIES and value is not None:
            for one in value if isinstance(value, list | tuple) else [value]:
                check_named(one)

    def _within(self, value: int | float) -> bool:
        inside = (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)
        return inside and (self.above is None or value > self.above) and (self.below is None or value < self.below)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without defaults."""
        usual = {field.name: field.default for field in fields(self)}
        values = {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}
        return {**values, "kind": self.kind.name}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Option":
        vary = data.get("vary")
        if vary is not None:
            only = vary["only"]
            below = math.inf if vary["below"] is None else vary["below"]
            limits = {"by": tuple(vary["by"]), "below": below, "only": only and (only[0], tuple(only[1]))}
            vary = Vary(**{**vary, **limits})
        made = {"kind": Kind[data["kind"]], "choices": tuple(data.get("choices", ())), "vary": vary}
        return cls(**{**data, **made})


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error message that suggests the nearest known name."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


NODES = Option(
    "nodes", Kind.NODES, "heads+mlps",
    "Groups joined by + (heads, mlps, input, q, k, v, neurons; for coar also rows, input_rows; with --dictionary features), or names of nodes, comma separated.",
)  # fmt: skip
POSITIONS = Option(
    "positions",
    Kind.POSITIONS,
    "all",
    "One score per position (each), per span (spans) or per role (roles; or names of roles or spans, comma separated), or one for "
    "all positions (all).",
)
PLACES = replace(
    POSITIONS,
    help="Score and choose edges by place: per span (spans) or per position (each). Names of roles or spans, comma separated: "
    "only score them.",
)
DESTINATIONS = Option(
    "destinations",
    Kind.FLAG,
    False,
    "For keys and values: separate scores for each span of the query that reads them.",
    needs="positions",
)
EDGES = Option(
    "edges",
    Kind.WHOLE,
    None,
    "Number of edges to choose; those on no path from input to logits are removed afterwards. Default: 200.",
    at_least=1,
)
THRESHOLD = Option(
    "threshold",
    Kind.NUMBER,
    None,
    "Choose every edge with at least this score, instead of a number of edges.",
    metric_units=True,
)
RULES = ("top", "greedy", "positive-share", "optimal")
SELECT = Option("select", Kind.TEXT, None, "Selection rule: top, greedy, positive-share or optimal. Default: top.")
BY = Option(
    "by",
    Kind.TEXT,
    None,
    "Rank edges by the size of the score (abs) or by the score with its sign (signed). Default: abs.",
)
FILL = Option("fill", Kind.FLAG, False, "Add edges until the given number of edges is on paths from input to logits.")
SHARE = Option(
    "share",
    Kind.NUMBER,
    None,
    "For positive-share: the share of edges with positive scores. Default: 0.5.",
    at_least=0,
    at_most=1,
)
CHOICE = (EDGES, THRESHOLD, SELECT, BY, FILL, SHARE)
"""Options that choose edges by their scores."""
RANDOM_CIRCUITS = Option("random_circuits", Kind.WHOLE, 5, "Number of random circuits for comparison.", at_least=0)
OFFSETS: dict[str, float] = {"left": 0.0, "midpoint": 0.5, "right": 1.0}
"""Where the point lies in each of the equal pieces of a path from ablated to clean, by the name of the rule."""
STEPS = Option(
    "steps", Kind.WHOLE, None, "Points on the path from ablated to clean. Default: 5.", at_least=1,
    vary=Vary((2.0,), "{} steps", usual=5, costs=True, only=("gradient", ("ig", "ig-activations", "conductance"))),
)  # fmt: skip
QUADRATURE = Option(
    "quadrature", Kind.TEXT, None, "Where the points lie on each step. Default: midpoint.", choices=tuple(OFFSETS)
)
REFINE = Option(
    "refine", Kind.TEXT, None,
    "Recompute the strongest edges: exactly through the receiving node (node), or by ablating each (exact).",
    choices=("node", "exact"),
)  # fmt: skip
REFINE_TOP = Option(
    "refine_top", Kind.WHOLE, None, "Number of strongest edges to refine. Default: 200.", at_least=1, needs="refine"
)
ABSOLUTE = Option("absolute", Kind.FLAG, False, "Use the absolute value of a change of the metric.")
DICTIONARY = Option(
    "dictionary",
    Kind.DICTIONARIES,
    None,
    "A sparse autoencoder or transcoder whose features are nodes, as SITE=PATH, such as mlp_out.3=FOLDER; may be repeated. The run then "
    "also has a circuit of the strongest nodes.",
)
FEATURES = (
    DICTIONARY,
    Option(
        "circuit_nodes", Kind.WHOLE, None, "Number of strongest nodes of the circuit. Default: 30.", at_least=1,
        needs="dictionary",
    ),
    Option(
        "circuit_edges", Kind.WHOLE, None, "Number of strongest edges between them. Default: 60.", at_least=0,
        needs="dictionary",
    ),
    Option(
        "edge_gradient", Kind.TEXT, None, "Gradients of these edges: clean (EAP), ig or relp. Default: clean.",
        choices=("clean", "ig", "relp"), needs="dictionary",
    ),
)  # fmt: skip
"""Options of methods whose nodes can be features of dictionaries."""
