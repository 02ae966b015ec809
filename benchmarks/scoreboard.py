"""Every method of edges on models and tasks, in one table: docs/scoreboard.md.

    python benchmarks/scoreboard.py DIR [--suites compiled random smollm2] [--tasks ioi capital …] [--pairs 16] [--fresh 16] [--methods EAP …]
    python benchmarks/scoreboard.py DIR --on ray --workers 2     # the same numbers, by several processes
    python benchmarks/scoreboard.py DIR --memory                 # also the peak memory of each method, beyond the loaded model
    python benchmarks/scoreboard.py DIR --table                  # only the tables, of what has been computed so far

Writes a study for each suite into DIR and runs it (`circuits study run`), so a killed call continues where it was. Suites:

    compiled    the compiled models with their own tasks: the true edges are known
    random      two random models with random pairs: the true effect of every edge is measured (`exact-edges`)
    smollm2     SmolLM2-135M on eight tasks: faithfulness on fresh pairs, no truth

CPR: ∫ f with edges by signed score, CMD: ∫ |1 - f| with edges by absolute score (MIB: Mueller et al. 2025, 2504.13151), on fresh pairs
of the task where there is one. f at a share of the edges: by absolute score. AUROC: of absolute scores against the active edges
(compiled), or against the tenth of the edges with the largest exact effects (random). Jaccard: mean overlap of the strongest 2% of the
edges (at least 10) in bootstrap resamples of the prompts. Methods that give a circuit instead of scores have f at their own size only.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import in_new_process, peak_bytes

import circuits
import tasks
from circuits import EdgeScores
from circuits.evaluation.stability import prompt_stability

SMOLLM2_TASKS = (
    "ioi", "greater-than", "capital", "gendered-pronoun", "docstring", "subject-verb-agreement", "successor", "antonym",
)  # fmt: skip
SHARES = (0.002, 0.005, 0.01, 0.02, 0.05)
EDGES = {"compiled": 20, "random": 40, "smollm2": 706}
"""The budget of methods that give a circuit: one percent of SmolLM2's edges."""
ATTRIBUTION = ("clean-corrupted", "ig-activations", "conductance", "relp")
METHODS: dict[str, dict[str, Any]] = {
    "EAP": {"method": "eap"},
    "clean-corrupted": {"method": "edge-attribution", "gradient": "clean-corrupted"},
    "EAP-IG": {"method": "eap-ig"},
    "IG over activations": {"method": "edge-attribution", "gradient": "ig-activations", "steps": 1},
    "conductance": {"method": "edge-attribution", "gradient": "conductance"},
    "RelP": {"method": "edge-attribution", "gradient": "relp"},
    "GIM": {"method": "gim"},
    "information flow": {"method": "information-flow"},
    "EAP-IG and GIM, mean": {"method": "ensemble", "gradients": ["ig", "gim"]},
    "EAP-IG and GIM, rank-mean": {"method": "ensemble", "gradients": ["ig", "gim"], "how": "rank-mean"},
    "EAP-IG, GIM and RelP, mean": {"method": "ensemble", "gradients": ["ig", "gim", "relp"]},
    "EAP-IG and GIM, min": {"method": "ensemble", "gradients": ["ig", "gim"], "how": "min"},
    "exact effects": {"method": "exact-edges"},
    "edge pruning": {"method": "edge-pruning"},
    "edge pruning from EAP-IG": {"method": "edge-pruning", "start": "ig"},
    "UGS": {"method": "ugs"},
    "UGS from EAP-IG": {"method": "ugs", "start": "ig"},
    "ACDC": {"method": "acdc"},
}
TRAINED = ("edge-pruning", "ugs")
CIRCUITS = (*TRAINED, "acdc")
"""Methods that give a circuit of one size, which is tested at that size; all others give scores, of which the curve is measured."""
GIVES = ("scores", "circuit")
SMOLLM2_STEPS = 100
"""Steps of training masks on SmolLM2, instead of 300."""
SMOLLM2_THRESHOLD = 0.02
"""ACDC's threshold on SmolLM2, in units of the task's metric: a search for a threshold with a given number of edges makes several
whole searches."""
SLOW = ("exact effects", "IG over activations")
"""Left out on SmolLM2: hours."""


def methods(suite: str, wanted: Sequence[str] = (), gives: str | None = None) -> dict[str, dict[str, Any]]:
    """The methods of a suite, with all their options; `wanted`: only these; `gives`: only those that give scores or a circuit."""
    chosen = {}
    for name, options in METHODS.items():
        if (suite == "smollm2" and name in SLOW) or (wanted and name not in wanted):
            continue
        if gives is not None and (options["method"] in CIRCUITS) != (gives == "circuit"):
            continue
        chosen[name] = {**options, "edges": EDGES[suite], "random_circuits": 0}
        if suite == "smollm2" and options["method"] in TRAINED:
            chosen[name]["steps"] = SMOLLM2_STEPS
        if suite == "smollm2" and options["method"] == "acdc":
            del chosen[name]["edges"]
            chosen[name]["threshold"] = SMOLLM2_THRESHOLD
    return chosen


def random_models(directory: Path) -> tuple[list[str], list[str]]:
    """Writes two random models and their pairs; their paths."""
    from estimators import random_hf_models

    models, files = [], []
    for number, model in enumerate(random_hf_models().values()):
        place = directory / f"random{number}"
        if not (place / "config.json").exists():
            model.save_pretrained(place)
        models.append(str(place.resolve()))
    file = directory / "random.jsonl"
    if not file.exists():
        generator = torch.Generator().manual_seed(0)
        clean, corrupted = (torch.randint(3, 100, (32, 8), generator=generator).tolist() for _ in range(2))
        rows = [
            {"clean": a, "corrupted": b, "answers": [5], "distractors": [9]}
            for a, b in zip(clean, corrupted, strict=True)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files.append(str(file.resolve()))
    return models, files


def study(suite: str, gives: str, arguments: argparse.Namespace) -> str:
    """The text of the study file of a suite's methods that give scores, or a circuit."""
    parts, fresh = ["curves" if gives == "scores" else "faithfulness"], arguments.fresh
    leave_out: list[tuple[str, str]] = []
    if suite == "compiled":
        models = [name for name in tasks.names() if name.startswith("compiled/")]
        asked = models
        parts.append("recovery")
        leave_out = [(model, task) for model in models for task in models if model != task]
    elif suite == "random":
        models, asked = random_models(arguments.directory)
        fresh = None
    else:
        models, asked = ["smollm2-135m"], arguments.tasks
    lines = [
        f"models = {json.dumps(models)}",
        f"tasks = {json.dumps(list(asked))}",
        f"n = {arguments.pairs}",
        "seeds = [0]",
        "",
    ]
    for name, options in methods(suite, arguments.methods, gives).items():
        lines += [
            f"[methods.{json.dumps(name)}]",
            *(f"{key} = {json.dumps(value)}" for key, value in options.items()),
            "",
        ]
    lines += ["[evaluation]", f"parts = {json.dumps(parts)}", 'ablations = ["interchange"]', "random-circuits = 0"]
    lines += [] if fresh is None else [f"fresh = {fresh}"]
    for model, task in leave_out:
        lines += ["", "[[leave-out]]", f"model = {json.dumps(model)}", f"task = {json.dumps(task)}"]
    return "\n".join(lines) + "\n"


def run(suite: str, arguments: argparse.Namespace) -> None:
    """Runs what is missing of a suite's studies."""
    more = [] if arguments.on is None else ["--on", arguments.on, "--workers", str(arguments.workers)]
    for gives in GIVES:
        if methods(suite, arguments.methods, gives):
            file, out = (arguments.directory / f"{suite}-{gives}{end}" for end in (".toml", ""))
            file.write_text(study(suite, gives, arguments))
            subprocess.run(
                [sys.executable, "-m", "circuits", "study", "run", str(file), "--out", str(out), *more], check=False
            )


# --- reading ---------------------------------------------------------------------------------------------------------------


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
    found, exact = [], {}
    entries = [entry for entry in status(read_study(f"{directory}.toml"), out) if entry.state == "done"]
    for entry in entries:
        path = out.run_path(entry.address)
        if entry.request.label == "exact effects" and (path / "scores.safetensors").exists():
            exact[entry.request.model] = EdgeScores.load(path / "scores.safetensors")
    for entry in entries:
        path, evaluation = out.run_path(entry.address), out.evaluation(entry.evaluation) if entry.evaluation else {}
        row = {"model": entry.request.model_shown, "task": entry.request.task, "method": entry.request.label}
        row |= numbers(path, evaluation or {}, exact.get(entry.request.model) if suite == "random" else None)
        found.append(row)
    return found


def numbers(path: Path, evaluation: Mapping[str, Any], exact: EdgeScores | None) -> dict[str, Any]:
    """The numbers of one run."""
    record = json.loads((path / "run.json").read_text())
    seconds = {stage: time for stage, time in record["seconds"].items() if stage != "evaluation"}
    row: dict[str, Any] = {"seconds": sum(seconds.values())}
    faithfulness = evaluation.get("faithfulness", {}).get("interchange", {})
    if curves := evaluation.get("curves"):
        row |= {name: curves[name] for name in ("cpr", "cmd", "cpr_interval", "cmd_interval")}
        by_share = dict(zip(curves["absolute"]["fractions"], curves["absolute"]["faithfulness"], strict=True))
        row |= {f"f{share}": by_share.get(share) for share in SHARES}
    else:
        row["f own"], row["edges"] = faithfulness.get("ratio_of_means"), record["summary"]["edges"]
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


def mean_of(found: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in found if row.get(name) is not None]
    return statistics.fmean(values) if values else None


def spread_of(found: Sequence[Mapping[str, Any]], name: str) -> str:
    """The mean over tasks, and the least and most."""
    values = [row[name] for row in found if row.get(name) is not None]
    if not values:
        return "–"
    return f"{statistics.fmean(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def print_suite(suite: str, found: Sequence[Mapping[str, Any]]) -> None:
    places = sorted({(row["model"], row["task"]) for row in found})
    print(f"\n## {suite}: {len(places)} models and tasks, means (least to most)\n")
    heads = [
        "method",
        "done",
        "CPR",
        "CMD",
        "AUROC",
        *(f"f at {100 * share:g}%" for share in SHARES),
        "f own",
        "Jaccard",
        "seconds",
    ]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for method in METHODS:
        some = [row for row in found if row["method"] == method]
        if some:
            cells = [
                method, str(len(some)), spread_of(some, "cpr"), spread_of(some, "cmd"), shown(mean_of(some, "auroc")),
                *(shown(mean_of(some, f"f{share}")) for share in SHARES), shown(mean_of(some, "f own")),
                shown(mean_of(some, "jaccard")), shown(mean_of(some, "seconds"), 1),
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |")
    print_wins(found)


def print_wins(found: Sequence[Mapping[str, Any]]) -> None:
    """CMD task by task, with its interval over prompts."""
    places = sorted({(row["model"], row["task"]) for row in found})
    names = [method for method in METHODS if any(row["method"] == method and "cmd" in row for row in found)]
    print(
        f"\nCPR; CMD with its 95% bootstrap interval over prompts\n\n| | {' | '.join(names)} |\n{'|---' * (len(names) + 1)}|"
    )
    for model, task in places:
        cells = []
        for name in names:
            row = next((r for r in found if (r["model"], r["task"], r["method"]) == (model, task, name)), {})
            if "cmd" not in row:
                cells.append("–")
                continue
            low, high = row["cmd_interval"]
            cells.append(f"{row['cpr']:.2f}; {row['cmd']:.3f} ({shown(low, 3)} to {shown(high, 3)})")
        print(f"| {Path(task).stem if 'jsonl' in task else task}, {Path(model).name} | {' | '.join(cells)} |")


def peak(method: str, suite_task: str) -> float:
    """Peak bytes of a method on one task of SmolLM2, beyond the loaded model."""
    from circuits.runs.discover import discover

    torch.set_num_threads(1)
    model = circuits.load_model("smollm2-135m")
    pairs = tasks.load(suite_task).pairs(model, n=16)
    options = {key: value for key, value in methods("smollm2")[method].items() if key != "method"}
    if METHODS[method]["method"] in TRAINED:
        options["steps"] = 2
    return float(peak_bytes(lambda: discover(model, pairs, method=METHODS[method]["method"], test=False, **options)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--suites", nargs="*", default=list(EDGES), choices=list(EDGES))
    parser.add_argument("--tasks", nargs="*", default=list(SMOLLM2_TASKS))
    parser.add_argument(
        "--methods", nargs="*", default=[], choices=list(METHODS), metavar="METHOD", help="default: all"
    )
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--fresh", type=int, default=16)
    parser.add_argument("--on")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for suite in arguments.suites:
        if not arguments.table:
            run(suite, arguments)
        if found := rows(suite, arguments.directory):
            print_suite(suite, found)
    if arguments.memory:
        for method in methods("smollm2", arguments.methods):
            print(f"{method}: {in_new_process(partial(peak, suite_task=arguments.tasks[0]), method) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
