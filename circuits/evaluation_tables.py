"""An evaluation (`Evaluation.to_dict`, `evaluation.json`) as rows of text, for the terminal and for pages."""

from collections.abc import Mapping, Sequence
from typing import Any

Rows = tuple[str, Sequence[str], list[list[str]]]
"""A title, the columns' headings and the rows."""
SHOWN_IDLE = 5
SAID = {True: "for the circuit", False: "against it", None: "could not be made"}


def tables(told: Mapping[str, Any]) -> list[Rows]:
    """What was measured, a table a part."""
    made = [_faithfulness(told), _claims(told), _hypothesis(told), _scores(told)]
    return [table for table in made if table[2]]


def _faithfulness(told: Mapping[str, Any]) -> Rows:
    shown = list(told["faithfulness"].items())
    if "same_layers" in told:
        shown.insert(min(1, len(shown)), (told["ablation"], told["same_layers"]))
    rows = [
        [
            ablation, number(of["ratio_of_means"]), number(of["mean_of_ratios"]),
            f"{len(of['random'])} {of['random_circuits'].replace('_', ' ')}", number(of["random_faithfulness"]),
            number(of["p"]),
        ]
        for ablation, of in shown
    ]  # fmt: skip
    headings = ("ablation", "ratio of means", "mean of ratios", "random circuits", "theirs", "p")
    return f"faithfulness of {told['n_edges']} edges ({told['metric']}, edges ablated at all positions)", headings, rows


def _claims(told: Mapping[str, Any]) -> Rows:
    rows: list[list[str]] = []
    if "completeness" in told:
        of = told["completeness"]
        rows.append(["completeness: 1 - what the complement keeps", number(of["value"])])
        if subsets := len(of["circuit_without"]):
            label = f"incompleteness over {subsets} random subsets: |circuit - model| without them"
            rows.append([label, number(of["incompleteness"])])
    if "minimality" in told:
        idle = told["minimality"]["idle"]
        named = ", ".join(idle[:SHOWN_IDLE]) + (" …" if len(idle) > SHOWN_IDLE else "")
        rows.append(["edges with less than 1% of the largest effect", f"{len(idle)}" + (f" ({named})" if idle else "")])
    if "curves" in told:
        of = told["curves"]
        rows.append(["CPR (95%)", interval(of["cpr"], of["cpr_interval"])])
        rows.append(["CMD (95%)", interval(of["cmd"], of["cmd_interval"])])
    return f"circuit, {told['ablation']} ablation", ("", ""), rows


def _hypothesis(told: Mapping[str, Any]) -> Rows:
    rows = [
        [test["name"], number(test["statistic"]), f"{test['corrected']:.2g}", SAID[test["supports"]]]
        for test in told.get("hypothesis", {}).get("tests", ())
    ]
    return "hypothesis tests, Holm's correction", ("test", "statistic", "p", "speaks"), rows


def _scores(told: Mapping[str, Any]) -> Rows:
    rows: list[list[str]] = []
    if "stability" in told:
        of = told["stability"]
        rows.append([f"Jaccard of the {of['k']} strongest edges over resampled prompts", number(of["jaccard"])])
        rows.append(["edges that are always among them", str(len(of["always"]))])
        rows.append(["rank correlation over resampled prompts", number(of["rank"])])
    if "complexity" in told:
        rows.append(["complexity: entropy of the shares, in nats", number(told["complexity"])])
    if "sensitivity" in told:
        rows.append(
            ["sensitivity: mean distance between prompts' scores (0 to 2)", number(told["sensitivity"]["mean"])]
        )
    return "scores", ("", ""), rows


def number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def interval(value: float, ends: Sequence[float]) -> str:
    return f"{value:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"
