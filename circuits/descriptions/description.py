"""A description of a circuit: one line per node with its evidence, groups, tests, and what could not be determined."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuits.files.atomic import write_text
from circuits.plain_torch import plain_methods
from circuits.results.naming import Naming
from circuits.results.provenance import Provenance, finite, frozen, plain
from circuits.results.wording import counted
from circuits.shown import Shown

SCHEMA = 1
STRONGEST = 5
"""Nodes in the summary's line of direct effects."""


@dataclass(frozen=True)
class NodeLine:
    """What is known about one node.

    Attributes:
        node: its name.
        label: a few words, such as `name mover`; None if it could not be determined.
        text: one line with the evidence.
        evidence: the numbers behind it, as JSON values.
        reads: input (`q`, `k`, `v`, `in`) -> writers of the circuit that it reads there, the strongest first.
        feeds: readers of the circuit that it feeds, the strongest first.
    """

    node: str
    label: str | None
    text: str
    evidence: Mapping[str, Any]
    reads: Mapping[str, tuple[str, ...]]
    feeds: tuple[str, ...]

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        return {
            "node": self.node, "label": self.label, "text": self.text, "evidence": _finite(plain(self.evidence)),
            "reads": {part: list(writers) for part, writers in self.reads.items()}, "feeds": list(self.feeds),
        }  # fmt: skip


def _finite(value: Any) -> Any:
    """JSON values with None for NaN, such as the standard error of a single prompt."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return finite(value) if isinstance(value, float) else value


@dataclass(frozen=True)
class DescriptionTest:
    """An intervention that the description implies, and its result.

    Attributes:
        node: the node that the statement is about.
        statement: what should happen.
        effect, stderr: mean effect on the metric of the intervention, and its standard error over the prompts.
        p: one-sided p value of Student's test that the effect has the stated sign.
        control: mean effect of the same intervention where nothing should happen; None without a control.
        held: True, False (a significant effect of the other sign, or a control of at least half the effect in the same direction), or
            None: undecided.
    """

    node: str
    statement: str
    effect: float
    stderr: float
    p: float
    control: float | None
    held: bool | None

    @property
    def outcome(self) -> str:
        """`held`, `failed` or `undecided`."""
        return "undecided" if self.held is None else "held" if self.held else "failed"

    def __str__(self) -> str:
        control = "" if self.control is None else f", control {self.control:+.2g}"
        return f"{self.outcome}: {self.statement} (effect {self.effect:+.2g} ± {self.stderr:.1g}{control})"

    def to_dict(self) -> dict[str, Any]:
        names = ("node", "statement", "effect", "stderr", "p", "control", "outcome")
        return {name: finite(value) if isinstance(value := getattr(self, name), float) else value for name in names}


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Description(Shown):
    """What the parts of a circuit do.

    Attributes:
        lines: one per node, in graph order.
        labels: node -> label, of the nodes with one.
        groups: label -> nodes of one kind, for kinds with several nodes.
        tests: interventions that the description implies, with their results.
        unsaid: what could not be determined, and why.
        provenance: the origin.
    """

    lines: tuple[NodeLine, ...]
    labels: Mapping[str, str]
    groups: Mapping[str, tuple[str, ...]]
    tests: tuple[DescriptionTest, ...]
    unsaid: tuple[str, ...]
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    @property
    def naming(self) -> Naming:
        """Labels and groups, as `circuits export --labels` and the viewer take them."""
        return Naming(self.labels, self.groups)

    @property
    def summary(self) -> tuple[str, ...]:
        """A few lines: nodes by label, those with the largest label first; the largest direct effects; and how the tests came out."""
        lines = [f"{len(self.labels)} of {counted(len(self.lines), 'node')} have a label:"]
        by_label: dict[str, list[str]] = {}
        for node, label in self.labels.items():
            by_label.setdefault(label, []).append(node)
        lines += [
            f"  {label}: {', '.join(by_label[label])}"
            for label in sorted(by_label, key=lambda name: -len(by_label[name]))
        ]
        effects = {line.node: effect for line in self.lines if (effect := line.evidence.get("direct effect"))}
        strongest = sorted(effects, key=lambda node: -abs(effects[node]))[:STRONGEST]
        if strongest:
            lines.append(
                f"Largest direct effects: {', '.join(f'{node} ({effects[node]:+.2g})' for node in strongest)}."
            )
        outcomes = Counter(test.outcome for test in self.tests)
        if outcomes:
            counts = ", ".join(f"{outcomes[name]} {name}" for name in ("held", "failed", "undecided") if outcomes[name])
            lines.append(f"Tests of these statements: {counts}.")
        return tuple(lines)

    def __str__(self) -> str:
        parts = [*self.summary, "", *(str(line) for line in self.lines)]
        parts += ["", "Tests:", *(f"{test.node}: {test}" for test in self.tests)] if self.tests else []
        parts += ["", "Not determined:", *self.unsaid] if self.unsaid else []
        return "\n".join(parts)

    def rows(self) -> Sequence[dict[str, Any]]:
        """One row per node: name, label, direct effect and text."""
        return [
            {"node": line.node, "label": line.label, "direct effect": line.evidence.get("direct effect"), "text": line.text}
            for line in self.lines
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The description as JSON values."""
        return {
            "schema": SCHEMA, "lines": [line.to_dict() for line in self.lines], **self.labels_dict(),
            "tests": [test.to_dict() for test in self.tests], "unsaid": list(self.unsaid), "provenance": plain(self.provenance),
        }  # fmt: skip

    def labels_dict(self) -> dict[str, Any]:
        """Labels and groups alone: the content of a file for `--labels`."""
        return {"labels": dict(self.labels), "groups": {label: list(nodes) for label, nodes in self.groups.items()}}

    def save(self, path: str | Path) -> None:
        """Writes everything as JSON."""
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def save_labels(self, path: str | Path) -> None:
        """Writes a file for `circuits export --labels` and `circuits view --labels`; the name should end in `.json`."""
        write_text(path, json.dumps(self.labels_dict(), indent=1) + "\n")

    def __repr__(self) -> str:
        held = sum(test.held is True for test in self.tests)
        return (
            f"Description({len(self.lines)} nodes, {len(self.labels)} labels, {held} of {len(self.tests)} tests held)"
        )
