"""Tables of an evaluation (`Evaluation.to_dict`, `evaluation.json`) as rows of text, for the terminal and for pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.pages.verdict import HEADINGS, verdict_rows
from circuits.results.wording import fixed, metric_name

Rows = tuple[str, Sequence[str], list[list[str]]]
"""Title, column headings and rows."""
SHOWN_IDLE = 5
SAID = {True: "for the circuit", False: "against it", None: "could not be made"}


def tables(measured: Mapping[str, Any]) -> list[Rows]:
    """One table for each measurement."""
    made = [
        verdict_table(measured), _answers(measured), _faithfulness(measured), _features(measured), _claims(measured), _hypothesis(measured), _scores(measured), *_recovery(measured), _certificate(measured), _families(measured), _specificity(measured), _stability(measured),
        _randomisation(measured),
    ]  # fmt: skip
    return [table for table in made if table[2]]


def evaluation_findings(measured: Mapping[str, Any]) -> tuple[str, ...]:
    """How much of the behaviour the circuit keeps, beside random circuits, and how much of the circuit is needed."""
    result = []
    part = measured["faithfulness"].get(measured["ablation"]) or next(iter(measured["faithfulness"].values()), None)
    if part is not None and part["ratio_of_means"] is not None:
        text = (
            f"The circuit of {measured['n_edges']:,} {part.get('unit', 'edges')} recovers {part['ratio_of_means']:.0%} of the {metric_name(measured['metric'])} "
            f"that is lost when everything is ablated ({measured['ablation']})"
        )
        random = part["random_faithfulness"]
        beside = (
            f"; {len(part['random'])} random circuits recover {abs(round(random, 2)):.0%}" if random is not None else ""
        )
        result.append(f"{text}{beside}.")
    if "minimality" in measured:
        idle, n = len(measured["minimality"]["idle"]), len(measured["minimality"]["effects"])
        result.append(
            f"{idle} of {n} {part.get('unit', 'edges') if part else 'edges'} add less than 1% of what the largest adds."
        )
    elif measured.get("answers", {}).get("accuracy") is not None:
        result.append(f"The model itself answers {measured['answers']['accuracy']:.0%} of the prompts.")
    return tuple(result)


def verdict_table(measured: Mapping[str, Any]) -> Rows:
    """For each claim supported, not supported or not tested, with the number and the test."""
    return "verdict", HEADINGS, [] if measured["n_edges"] is None else verdict_rows(measured)


def _certificate(measured: Mapping[str, Any]) -> Rows:
    part = measured.get("certificate")
    rows = []
    if part is not None:
        deleted = sorted(row["deletions"] for row in part["of_edges"] if row["status"] == "in")
        rows = [
            ["in, out, abstained", f"{part['in']}, {part['out']}, {part['abstained']}"],
            [
                f"{part['unit']} that may be deleted, median of edges that are in",
                str(deleted[len(deleted) // 2]) if deleted else "–",
            ],
            [
                "edges of the circuit that stay in, whichever one is deleted",
                f"{part['certified']} of {part['circuit']}",
            ],
        ]
        if part["caution"]:
            rows.append(["caution", part["caution"]])
    return "certificate of the selection", ("", ""), rows


def _families(measured: Mapping[str, Any]) -> Rows:
    part = measured.get("families", {"families": [], "k": 0, "p": None})
    rows = [
        [
            str(row["family"] + 1),
            str(row["pairs"]),
            str(row["edges"]),
            *(number(row[f"faithfulness on {j}"]) for j in range(part["k"])),
        ]
        for row in part["families"]
    ]
    headings = ("family", "prompts", "edges", *(f"faithfulness on family {j + 1}" for j in range(part["k"])))
    follow = f"; they follow {part['follows']}" if part.get("follows") else ""
    return f"families of prompts (p = {number(part['p'])}){follow}", headings, rows


def _specificity(measured: Mapping[str, Any]) -> Rows:
    part = measured.get("specificity")
    rows = []
    if part is not None:
        for row in (part["own"], *part["others"]):
            rows.append(
                [
                    row["task"],
                    number(row["effect"]),
                    f"{number(row['low'])} to {number(row['high'])}",
                    number(row["chance"]),
                ]
            )
    return "share of tasks that is lost without the circuit", ("task", "lost", "interval", "random circuits"), rows


def _features(measured: Mapping[str, Any]) -> Rows:
    """Of a circuit of features; all three numbers, or none."""
    names = ("faithfulness", "with_errors", "without_errors")
    rows = [
        [ablation, *("–" if part[name] is None else f"{part[name]:.3f}" for name in names), str(len(part["kept"]))]
        for ablation, part in (measured.get("features") or {}).items()
    ]
    return (
        "faithfulness of the circuit of features",
        ("ablation", "its own errors", "all errors", "no errors", "nodes"),
        rows,
    )


def _answers(measured: Mapping[str, Any]) -> Rows:
    """How well the model itself answers; missing in older evaluations."""
    part = measured.get("answers")
    names = {
        "accuracy": "accuracy",
        "top_1_rate": "top-1 rate of the answer",
        "median_rank": "median rank of the answer",
    }
    rows = (
        []
        if part is None
        else [[label, "–" if part[name] is None else f"{part[name]:.4g}"] for name, label in names.items()]
    )
    return f"the model on {measured['n_pairs']} clean prompts", ("", ""), rows


def _faithfulness(measured: Mapping[str, Any]) -> Rows:
    shown = list(measured["faithfulness"].items())
    if "same_layers" in measured:
        shown.insert(min(1, len(shown)), (measured["ablation"], measured["same_layers"]))
    rows = [
        [
            str(ablation).replace("_", " "), number(part["ratio_of_means"]), number(part["mean_of_ratios"]),
            f"{len(part['random'])} {part['random_circuits'].replace('_', ' ')}", number(part["random_faithfulness"]),
            _against_chance(part["p"], len(part["random"])),
        ]
        for ablation, part in shown
    ]  # fmt: skip
    headings = ("ablation", "ratio of means", "mean of ratios", "random circuits", "random mean", "p")
    unit = shown[0][1].get("unit", "edges") if shown else "edges"
    where = " at all positions" if unit == "edges" else ""
    title = f"faithfulness of {measured['n_edges']} {unit} ({metric_name(measured['metric'])}, {unit} ablated{where})"
    return title, headings, rows


def _against_chance(p: float | None, n_random: int) -> str:
    """p, and whether it is the smallest that n_random circuits allow."""
    least = p is not None and n_random and p <= 1.001 / (1 + n_random)
    return number(p) + (" (least)" if least else "")


def _claims(measured: Mapping[str, Any]) -> Rows:
    rows: list[list[str]] = []
    if "completeness" in measured:
        part = measured["completeness"]
        rows.append(["completeness: 1 - what the complement keeps", number(part["value"])])
        if subsets := len(part["circuit_without"]):
            label = f"incompleteness over {subsets} random subsets: |circuit - model| without them"
            rows.append([label, number(part["incompleteness"])])
    if "minimality" in measured:
        idle = measured["minimality"]["idle"]
        named = ", ".join(idle[:SHOWN_IDLE]) + (" …" if len(idle) > SHOWN_IDLE else "")
        rows.append(["edges with less than 1% of the largest effect", f"{len(idle)}" + (f" ({named})" if idle else "")])
    if "curves" in measured:
        part = measured["curves"]
        rows.append(["CPR (95%)", interval(part["cpr"], part["cpr_interval"])])
        rows.append(["CMD (95%)", interval(part["cmd"], part["cmd_interval"])])
    return f"circuit, {measured['ablation']} ablation", ("", ""), rows


def _hypothesis(measured: Mapping[str, Any]) -> Rows:
    rows = [
        [
            test["name"],
            number(test["statistic"]),
            "–" if test["corrected"] is None else f"{test['corrected']:.2g}",
            SAID[test["supports"]],
        ]
        for test in measured.get("hypothesis", {}).get("tests", ())
    ]
    return "hypothesis tests, Holm's correction for the last two", ("test", "statistic", "p", "speaks"), rows


def _scores(measured: Mapping[str, Any]) -> Rows:
    rows: list[list[str]] = []
    if "complexity" in measured:
        rows.append(["complexity: entropy of the shares, in nats", number(measured["complexity"])])
    if "sensitivity" in measured:
        rows.append(
            ["sensitivity: mean distance between prompts' scores (0 to 2)", number(measured["sensitivity"]["mean"])]
        )
    return "scores", ("", ""), rows


def _recovery(measured: Mapping[str, Any]) -> list[Rows]:
    """Recovery by the scores and by the circuit."""
    part = measured.get("recovery", {"truths": {}, "scores": [], "circuit": []})
    several = len(part["truths"]) > 1

    def named(row: Mapping[str, Any]) -> list[str]:
        return [f"{row['level']}, {row['truth']}" if several else row["level"], f"{row['true']} of {row['ranked']}"]

    scores = [
        [*named(row), number(row["auroc"]), number(row["average_precision"]), number(row["at_true_size"])]
        for row in part["scores"]
    ]
    circuit = [
        [*named(row), str(row["has"]), number(row["precision"]), number(row["recall"])] for row in part["circuit"]
    ]
    what = "" if several else f" ({', '.join(part['truths'])})"
    return [
        (
            f"recovery of the known circuit{what} by the scores",
            ("level", "true", "AUROC", "average precision", "precision = recall at the true size"),
            scores,
        ),
        (
            f"recovery of the known circuit{what} by the circuit",
            ("level", "true", "it has", "precision", "recall"),
            circuit,
        ),
    ]


def measured_prompt_stability(measured: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Stability over resampled prompts; the only kind in evaluations of schema 1."""
    part = measured.get("stability", {})
    return part if "resamples" in part else part.get("prompts")


CHANGED = {
    "pairs": "other pairs of the task", "seed": "other seeds", "steps": "other numbers of steps", "alpha": "other α",
    "ablation": "other ablations", "metric": "other metrics",
}  # fmt: skip


def _stability(measured: Mapping[str, Any]) -> Rows:
    part, prompts = measured.get("stability", {}), measured_prompt_stability(measured)
    rows: list[list[str]] = []
    if prompts is not None:
        runs = str(prompts["resamples"])
        rows.append(
            [
                "resampled prompts",
                runs,
                number(prompts["jaccard"]),
                number(prompts["rank"]),
                str(len(prompts["always"])),
            ]
        )
    rows += [
        [CHANGED[axis], str(one["runs"]), number(one["jaccard"]), number(one["rank"]), str(one["always"])]
        for axis, one in part.get("by", {}).items()
    ]
    if "runs" in part:
        values = (_between(part["jaccard"]), _between(part["rank"]))
        rows.append(
            [
                "all but resampled prompts" if prompts else "all",
                str(len(part["runs"])),
                *values,
                str(len(part["always"])),
            ]
        )
    k, what = (part if "k" in part else prompts or {}).get("k"), part.get("of", "edges")
    of_what = "circuits" if k is None else f"the {k} strongest {what}"
    return f"stability: {of_what}", ("", "runs", "Jaccard", "rank correlation", f"{what} in all"), rows


def _between(matrix: Sequence[Sequence[float | None]]) -> str:
    """Mean over pairs of runs."""
    values = [value for i, row in enumerate(matrix) for value in row[:i]]
    known = [value for value in values if value is not None]
    return number(sum(known) / len(known) if known and len(known) == len(values) else None)


def _randomisation(measured: Mapping[str, Any]) -> Rows:
    part = measured.get("randomisation", {"layers": [], "rank": [], "jaccard": [], "k": None})
    jaccard = part["jaccard"] or [None] * len(part["layers"])
    rows = [
        [f"last {n}" if n > 1 else "last", number(rank), number(shared)]
        for n, rank, shared in zip(part["layers"], part["rank"], jaccard, strict=True)
    ]
    what = "of circuits" if part["k"] is None else f"of the {part['k']} strongest"
    return "layers randomised", ("layers", "rank correlation with the model’s own", f"Jaccard {what}"), rows


def number(value: float | None) -> str:
    return fixed(value)


def interval(value: float, ends: Sequence[float | None]) -> str:
    if ends[0] is None and ends[1] is None:
        return f"{value:.3f} (no interval: one pair, or a metric range that is not clearly above 0)"
    return f"{value:.3f} ({number(ends[0])} to {number(ends[1])})"
