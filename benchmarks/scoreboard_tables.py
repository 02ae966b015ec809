"""What `scoreboard.py` has computed so far, as tables."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import permutation_test

import circuits
from circuits import EdgeScores
from circuits.evaluation.stability import prompt_stability

SHARES = (0.002, 0.005, 0.01, 0.02, 0.05)
GIVES = ("scores", "circuit")
DEFAULT = "EAP-IG"
"""The package's default method."""


def rows(suite: str, directory: Path) -> list[dict[str, Any]]:
    """One row for each finished run of a suite."""
    return [
        row
        for gives in GIVES
        if (directory / f"{suite}-{gives}").exists()
        for row in rows_of_study(suite, directory / f"{suite}-{gives}")
    ]


def rows_of_study(suite: str, directory: Path) -> list[dict[str, Any]]:
    """One row for each finished run of a study."""
    from circuits.study import StudyDirectory, read_study, status

    out = StudyDirectory.open(directory)
    result, exact = [], {}
    entries = [entry for entry in status(read_study(f"{directory}.toml"), out) if entry.state == "done"]
    for entry in entries:
        path = out.run_path(str(entry.address))
        if entry.request.label == "exact effects" and (path / "scores.safetensors").exists():
            exact[entry.request.model] = EdgeScores.load(path / "scores.safetensors")
    for entry in entries:
        path, evaluation = (
            out.run_path(str(entry.address)),
            out.evaluation(entry.evaluation) if entry.evaluation else {},
        )
        row = {"model": entry.request.model_shown, "task": entry.request.task, "method": entry.request.label}
        row |= numbers(path, evaluation or {}, exact.get(entry.request.model) if suite == "random" else None)
        result.append(row)
    return result


def numbers(path: Path, evaluation: Mapping[str, Any], exact: EdgeScores | None) -> dict[str, Any]:
    """The numbers of one run."""
    record = json.loads((path / "run.json").read_text())
    seconds = {stage: time for stage, time in record["seconds"].items() if stage != "evaluation"}
    row: dict[str, Any] = {"seconds": sum(seconds.values())}
    faithfulness = evaluation.get("faithfulness", {}).get("interchange", {})
    row["edges"] = record["summary"]["edges"]
    if curves := evaluation.get("curves"):
        row |= {name: curves[name] for name in ("cpr", "cmd", "cpr_interval", "cmd_interval")}
        by_share = dict(zip(curves["absolute"]["fractions"], curves["absolute"]["faithfulness"], strict=True))
        row |= {f"f{share}": by_share.get(share) for share in SHARES}
    else:
        row["f own"] = faithfulness.get("ratio_of_means")
    for one in (evaluation.get("recovery") or {}).get("scores", []):
        if one["level"] == "edges" and ("auroc" not in row or "active" in one["truth"]):
            row["auroc"] = one["auroc"]
    for one in (evaluation.get("recovery") or {}).get("circuit", []):
        if one["level"] == "edges" and "active" in one["truth"]:
            row |= {"precision": one["precision"], "recall": one["recall"]}
    scores = path / "scores.safetensors"
    if scores.exists():
        read = EdgeScores.load(scores)
        if read.per_prompt is not None:
            row["jaccard"] = prompt_stability(read, max(10, int(0.02 * read.graph.n_edges)), resamples=100).mean_jaccard
        if exact is not None:
            row["auroc"] = circuits.recovery(read, exact.top(read.graph.n_edges // 10), level="edges").auroc
    return row


def shown(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def mean_of(result: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in result if row.get(name) is not None]
    return statistics.fmean(values) if values else None


def spread_of(result: Sequence[Mapping[str, Any]], name: str) -> str:
    """The mean over tasks, and the least and most."""
    values = [row[name] for row in result if row.get(name) is not None]
    if not values:
        return "–"
    return f"{statistics.fmean(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def print_suite(suite: str, result: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """All tables of a suite; `names`: the methods, in order."""
    places = sorted({(row["model"], row["task"]) for row in result})
    print(f"\n## {suite}: {len(places)} models and tasks, means (least to most)\n")
    heads = [
        "method",
        "done",
        "CPR",
        "CMD",
        "AUROC",
        *(f"f at {100 * share:g}%" for share in SHARES),
        "f own",
        "edges",
        "Jaccard",
        "seconds",
    ]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for method in names:
        some = [row for row in result if row["method"] == method]
        if some:
            cells = [
                method, str(len(some)), spread_of(some, "cpr"), spread_of(some, "cmd"), shown(mean_of(some, "auroc")),
                *(shown(mean_of(some, f"f{share}")) for share in SHARES), shown(mean_of(some, "f own")),
                shown(mean_of([row for row in some if "f own" in row], "edges"), 0), shown(mean_of(some, "jaccard")), shown(mean_of(some, "seconds"), 1),
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |")
    print_tests(result, names)
    print_each(result, names)


def print_tests(result: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Every method against the default: differences over the tasks that both have, and their p values."""
    quantities = ("cmd", "cpr", "f0.01")
    print(f"\n| against {DEFAULT} | tasks | {' | '.join(f'{name}: difference, p' for name in quantities)} |")
    print("|---" * (len(quantities) + 2) + "|")
    by_method = {
        method: {(row["model"], row["task"]): row for row in result if row["method"] == method and "cmd" in row}
        for method in names
    }
    own = by_method.pop(DEFAULT)
    for method, theirs in by_method.items():
        common = sorted(own.keys() & theirs.keys())
        if len(common) < 2:
            continue
        cells = []
        for name in quantities:
            differences = [distance(theirs[at], name) - distance(own[at], name) for at in common]
            cells.append(f"{statistics.fmean(differences):+.3f}, {sign_flip_p(differences):.3f}")
        print(f"| {method} | {len(common)} | {' | '.join(cells)} |")


def distance(row: Mapping[str, Any], name: str) -> float:
    """A quantity; of a faithfulness, its distance from 1."""
    return abs(1 - row[name]) if name.startswith("f") else float(row[name])


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p value of the mean of paired differences, over all signs (exact up to 10,000 of them)."""
    if not any(differences):
        return 1.0
    result = permutation_test(
        (differences,), statistics.fmean, permutation_type="samples", n_resamples=10_000, rng=0, vectorized=False
    )
    return float(result.pvalue)


def print_each(result: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> None:
    """CPR and CMD task by task, with the interval of CMD over prompts."""
    places = sorted({(row["model"], row["task"]) for row in result})
    names = [method for method in methods if any(row["method"] == method and "cmd" in row for row in result)]
    print(
        f"\nCPR; CMD with its 95% bootstrap interval over prompts\n\n| | {' | '.join(names)} |\n{'|---' * (len(names) + 1)}|"
    )
    for model, task in places:
        cells = []
        for name in names:
            row = next((r for r in result if (r["model"], r["task"], r["method"]) == (model, task, name)), {})
            if "cmd" not in row:
                cells.append("–")
                continue
            low, high = row["cmd_interval"]
            cells.append(f"{row['cpr']:.2f}; {row['cmd']:.3f} ({shown(low, 3)} to {shown(high, 3)})")
        print(f"| {Path(task).stem if 'jsonl' in task else task}, {Path(model).name} | {' | '.join(cells)} |")
