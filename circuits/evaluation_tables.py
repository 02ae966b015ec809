"""An evaluation as rows of text, for the terminal and for pages."""

from collections.abc import Sequence

from circuits.evaluate_run import Evaluation

Rows = tuple[str, Sequence[str], list[list[str]]]
"""A title, the columns' headings and the rows."""
SHOWN_IDLE = 5


def tables(found: Evaluation) -> list[Rows]:
    """What was measured, a table a part."""
    made = [_faithfulness(found), _claims(found), _hypothesis(found), _scores(found)]
    return [table for table in made if table[2]]


def _faithfulness(found: Evaluation) -> Rows:
    shown = [(name, of) for name, of in found.faithfulness.items()]
    if found.same_layers is not None:
        shown.insert(min(1, len(shown)), (found.ablation, found.same_layers))
    rows = [
        [
            ablation, number(of.value), number(of.mean_of_ratios), f"{len(of.random)} {of.random_kind.replace('_', ' ')}",
            number(of.random_value), number(of.p_value),
        ]
        for ablation, of in shown
    ]  # fmt: skip
    headings = ("ablation", "ratio of means", "mean of ratios", "random circuits", "theirs", "p")
    return f"faithfulness of {found.n_edges} edges ({found.metric}, edges ablated at all positions)", headings, rows


def _claims(found: Evaluation) -> Rows:
    rows: list[list[str]] = []
    if found.completeness is not None:
        of = found.completeness
        rows.append(["completeness: 1 - what the complement keeps", number(of.value)])
        if len(of.sizes):
            label = f"incompleteness over {len(of.sizes)} random subsets: |circuit - model| without them"
            rows.append([label, number(of.incompleteness)])
    if found.minimality is not None:
        idle = found.minimality.idle()
        named = ", ".join(idle[:SHOWN_IDLE]) + (" …" if len(idle) > SHOWN_IDLE else "")
        rows.append(["edges with less than 1% of the largest effect", f"{len(idle)}" + (f" ({named})" if idle else "")])
    if found.curves is not None:
        of = found.curves
        rows.append(["CPR (95%)", interval(of.cpr, of.cpr_interval)])
        rows.append(["CMD (95%)", interval(of.cmd, of.cmd_interval)])
    return f"circuit, {found.ablation} ablation", ("", ""), rows


def _hypothesis(found: Evaluation) -> Rows:
    said = {True: "for the circuit", False: "against it", None: "could not be made"}
    rows = [
        [test.name, number(test.statistic), f"{test.corrected:.2g}", said[test.supports]]
        for test in (found.hypothesis.tests if found.hypothesis is not None else ())
    ]
    return "hypothesis tests, Holm's correction", ("test", "statistic", "p", "speaks"), rows


def _scores(found: Evaluation) -> Rows:
    rows: list[list[str]] = []
    if found.stability is not None:
        of = found.stability
        rows.append([f"Jaccard of the {of.k} strongest edges over resampled prompts", number(of.mean_jaccard)])
        rows.append(["edges that are always among them", str(len(of.always))])
        rows.append(["rank correlation over resampled prompts", number(of.mean_rank)])
    if found.complexity is not None:
        rows.append(["complexity: entropy of the shares, in nats", number(found.complexity)])
    if found.sensitivity is not None:
        rows.append(["sensitivity: mean distance between prompts' scores (0 to 2)", number(found.sensitivity.mean)])
    return "scores", ("", ""), rows


def number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def interval(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"
