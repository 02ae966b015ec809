"""Every method of edges on models and tasks, in one table: docs/scoreboard.md.

    python benchmarks/scoreboard.py DIR [--suites compiled random smollm2] [--tasks ioi capital …] [--pairs 16] [--fresh 16] [--methods EAP …]
    python benchmarks/scoreboard.py DIR --on ray --workers 2     # the same numbers, by several processes
    python benchmarks/scoreboard.py DIR --memory                 # also the peak memory of each method, beyond the loaded model
    python benchmarks/scoreboard.py DIR --seconds                # also the processor seconds of each method, one after another
    python benchmarks/scoreboard.py DIR --table                  # only the tables, of what has been computed so far

Writes a study for each suite into DIR and runs it (`circuits study run`), so a killed call continues where it was. Suites:

    compiled    the compiled models with their own tasks: the true edges are known
    random      two random models with random pairs: the true effect of every edge is measured (`exact-edges`)
    smollm2     SmolLM2-135M on eight tasks: faithfulness on fresh pairs, no truth

CPR: ∫ f with edges by signed score, CMD: ∫ |1 - f| with edges by absolute score (MIB: Mueller et al. 2025, 2504.13151), on fresh pairs
of the task where there is one. f at a share of the edges: by absolute score. AUROC: of absolute scores against the active edges
(compiled), or against the tenth of the edges with the largest exact effects (random). Jaccard: mean overlap of the strongest 2% of the
edges (at least 10) in bootstrap resamples of the prompts. Methods that give a circuit instead of scores have f at their own size only.
Against the default: exact sign-flip test over the tasks (all signs of the paired differences), two-sided, without a correction for
several methods.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import in_new_process, peak_bytes
from scoreboard_tables import GIVES, print_suite, rows

import circuits
import tasks

SMOLLM2_TASKS = (
    "ioi", "greater-than", "capital", "gendered-pronoun", "docstring", "subject-verb-agreement", "successor", "antonym",
)  # fmt: skip
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


def asked(method: str, task: str, steps: int | None = None) -> Callable[[], object]:
    """A call of a method on one task of SmolLM2, at one thread, with the model loaded; `steps`: of training."""
    from circuits.runs.discover import discover

    torch.set_num_threads(1)
    model = circuits.load_model("smollm2-135m")
    pairs = tasks.load(task).pairs(model, n=16)
    options = {key: value for key, value in methods("smollm2")[method].items() if key != "method"}
    if METHODS[method]["method"] in TRAINED and steps is not None:
        options["steps"] = steps
    return lambda: discover(model, pairs, method=METHODS[method]["method"], test=False, **options)


def peak(method: str, task: str) -> float:
    """Peak bytes of a method on one task of SmolLM2, beyond the loaded model."""
    return float(peak_bytes(asked(method, task, steps=2)))


def seconds(method: str, task: str) -> float:
    """Processor seconds of a method on one task of SmolLM2. Masks are trained for 2 and for 6 steps, and the rest extrapolated."""

    def once(steps: int | None) -> float:
        call = asked(method, task, steps)
        start = time.process_time()
        call()
        return time.process_time() - start

    if METHODS[method]["method"] not in TRAINED:
        return once(None)
    two, six = once(2), once(6)
    return two + (SMOLLM2_STEPS - 2) * (six - two) / 4


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
    parser.add_argument("--seconds", action="store_true")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for suite in arguments.suites:
        if not arguments.table:
            run(suite, arguments)
        if result := rows(suite, arguments.directory):
            print_suite(suite, result, list(METHODS))
    if arguments.memory:
        for method in methods("smollm2", arguments.methods):
            print(f"{method}: {in_new_process(partial(peak, task=arguments.tasks[0]), method) / 2**20:.0f} MiB")
    if arguments.seconds:
        for method in methods("smollm2", arguments.methods):
            print(f"{method}: {seconds(method, arguments.tasks[0]):.1f} processor seconds", flush=True)


if __name__ == "__main__":
    main()
