"""How well every method recovers circuits that are known: the tables and the picture of docs/known_circuits.md.

    python benchmarks/recovery.py [--pairs 16] [--models compiled/induction …] [--picture docs/recovery.png]
    python benchmarks/recovery.py --places    # edges at places, with the destinations of keys and values

AUROC of each method's ranking against the active edges (or the nodes that they touch), for every compiled model and three
ablations. Scores below a millionth of a method's largest count as zero: in float32 they would be rounding. A dash: the method
is not defined there.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

import circuits
import tasks
from circuits import AttributionWarning, Circuit, EdgeScores, InputError, Model, NodeScores, PromptPairs
from circuits.evaluation.recovery import NEGLIGIBLE
from tasks import compiled

ABLATIONS = ("interchange", "zero", "mean")
LEVELS = ("edges", "joint", "merged", "nodes")
"""What is ranked; `joint`: edges, against the jointly active ones."""
SHARES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""ACDC's thresholds, as shares of what the metric loses from all edges to none (KL: of that KL)."""
Scores = EdgeScores | NodeScores
Method = Callable[..., Scores]
Table = Mapping[str, Mapping[str, float | None]]


def exact(model: Model, pairs: PromptPairs, ablation: str, size: int) -> EdgeScores:
    return circuits.exact_edge_effects(model, pairs, ablation=ablation).to_scores()


def gradient(model: Model, pairs: PromptPairs, ablation: str, size: int, *, rule: str, **options: object) -> EdgeScores:
    return circuits.edge_attribution(model, pairs, gradient=rule, ablation=ablation, check_sign=False, **options)  # type: ignore[arg-type]


def flow(model: Model, pairs: PromptPairs, ablation: str, size: int) -> EdgeScores:
    return circuits.information_flow(model, pairs)


def acdc(model: Model, pairs: PromptPairs, ablation: str, size: int, *, metric: str | None) -> EdgeScores:
    """An edge's score: at how many of the thresholds it is kept."""
    ends = [Circuit.full(model.graph), Circuit.empty(model.graph)]
    full, empty = circuits.circuit_metrics(model, pairs, ends, metric=metric, ablation=ablation).mean(1).tolist()
    thresholds = [share * (abs(full - empty) or 1.0) for share in SHARES]
    kept = circuits.acdc_sweep(model, pairs, thresholds, metric=metric, ablation=ablation)
    return as_scores(model, torch.stack([circuit.mask for circuit in kept]).double().sum(0))


def combined(model: Model, pairs: PromptPairs, ablation: str, size: int, *, how: str) -> EdgeScores:
    return circuits.ensemble([gradient(model, pairs, ablation, size, rule=rule) for rule in ("ig", "gim")], how=how)


def pruning(
    model: Model, pairs: PromptPairs, ablation: str, size: int, *, train: Callable[..., Circuit] = circuits.edge_pruning
) -> EdgeScores:
    """Told how many edges there are; those that it chooses first, then the chance that an edge's mask is open."""
    circuit = train(model, pairs, size, ablation=ablation)
    assert circuit.scores is not None
    return as_scores(model, circuit.mask.double() + circuit.scores.nan_to_num(-torch.inf).sigmoid())


def as_scores(model: Model, values: torch.Tensor) -> EdgeScores:
    return EdgeScores(model.graph, values.double() * model.graph.edge_mask, torch.zeros_like(values).double(), 1)


def patching(
    model: Model, pairs: PromptPairs, ablation: str, size: int, *, method: Callable[..., NodeScores]
) -> Scores:
    return method(model, pairs, ablation=ablation)


def linear(model: Model, pairs: PromptPairs, ablation: str, size: int) -> Scores:
    return circuits.coar(model, pairs, samples=512, ablation=ablation)


EDGES: dict[str, Method] = {
    "exact patching": exact,
    "EAP": partial(gradient, rule="clean"),
    "clean-corrupted": partial(gradient, rule="clean-corrupted"),
    "EAP-IG": partial(gradient, rule="ig", steps=5),
    "EAP-IG, 50 steps": partial(gradient, rule="ig", steps=50),
    "IG, activations": partial(gradient, rule="ig-activations", steps=5),
    "conductance": partial(gradient, rule="conductance", steps=5),
    "RelP": partial(gradient, rule="relp"),
    "GIM": partial(gradient, rule="gim"),
    "EAP-IG and GIM, mean": partial(combined, how="mean"),
    "EAP-IG and GIM, rank-mean": partial(combined, how="rank-mean"),
    "EAP-IG and GIM, min": partial(combined, how="min"),
    "UGS": partial(pruning, train=circuits.uniform_gradient_sampling),
    "information flow": flow,
    "ACDC": partial(acdc, metric=None),
    "ACDC, KL": partial(acdc, metric="kl_divergence"),
    "edge pruning": pruning,
}
NODES: dict[str, Method] = {
    "activation patching": partial(patching, method=partial(circuits.activation_patching, direction="noising")),
    "AtP": partial(patching, method=circuits.attribution_patching),
    "AtP*": partial(patching, method=partial(circuits.atp_star, positions=False, nodes="heads+mlps", qk_fix=False)),
    "COAR": linear,
}


AT_PLACES = ("EAP", "clean-corrupted", "EAP-IG", "EAP-IG, 50 steps", "IG, activations", "conductance", "RelP", "GIM")
"""Methods whose effects are split by place."""


def measure_places(
    names: Sequence[str], n: int
) -> tuple[dict[str, dict[str, dict[str, float | None]]], dict[tuple[str, str], int]]:
    """AUROC over (edge, place, destination) by ablation, method and model; and sizes of the truth."""
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    sizes = {}
    for name in names:
        model, pairs = circuits.load_model(name), tasks.load(name).pairs(circuits.load_model(name), n)
        for ablation in ABLATIONS:
            active = compiled.active_edges(model, pairs, ablation, positions="spans", destinations=True)
            sizes[name, ablation] = len(active)
            for method in AT_PLACES:
                asked = partial(EDGES[method], positions="spans", destinations=True)
                scores = attempt(asked, model, pairs, ablation, len(active))
                value = None
                if scores is not None and active:
                    placed = scores.over_places()
                    value = auroc(placed, Circuit.from_edges(placed.graph, active), "edges")
                result.setdefault(ablation, {}).setdefault(method, {})[name] = value
    return result, sizes


def auroc(result: Scores, truth: Circuit, level: str) -> float:
    """Scores that would be rounding in float32 are zero."""
    return circuits.recovery(result, truth, level=level, negligible=NEGLIGIBLE).auroc


def measure(
    names: Sequence[str], n: int, wanted: Sequence[str] = ()
) -> tuple[dict[tuple[str, str], dict], dict[tuple[str, str, str], tuple]]:
    """AUROC by (level, ablation), method and model; and sizes of the truth by (model, ablation)."""
    result: dict[tuple[str, str], dict[str, dict[str, float | None]]] = {}
    sizes = {}
    for name in names:
        model = circuits.load_model(name)
        pairs = tasks.load(name).pairs(model, n)
        structural = compiled.structural_edges(model)
        for ablation in ABLATIONS:
            alone = Circuit.from_edges(model.graph, compiled.active_edges(model, pairs, ablation))
            joint = Circuit.from_edges(model.graph, compiled.jointly_active_edges(model, pairs, ablation))
            sizes[name, ablation] = len(alone), len(joint), len(structural)
            chosen = {name: run for name, run in {**EDGES, **NODES}.items() if not wanted or name in wanted}
            for method, run in chosen.items():
                scores = attempt(run, model, pairs, ablation, len(joint))
                levels = ("nodes",) if method in NODES else ("edges", "joint", "merged", "nodes")
                for level in levels:
                    truth = joint if level == "joint" else alone
                    value = None if scores is None else auroc(scores, truth, "edges" if level == "joint" else level)
                    result.setdefault((level, ablation), {}).setdefault(method, {})[name] = value
    return result, sizes


def attempt(run: Method, model: Model, pairs: PromptPairs, ablation: str, size: int) -> Scores | None:
    """None where the method is not defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttributionWarning)
        try:
            return run(model, pairs, ablation, size)
        except InputError as problem:
            print(f"    {model.name}, {ablation}: {problem}", flush=True)
            return None


def print_table(title: str, names: Sequence[str], table: Table) -> None:
    print(f"\n{title}\n\n| | {' | '.join(name.partition('/')[2] for name in names)} | mean |")
    print("|---" * (len(names) + 2) + "|")
    for method, row in table.items():
        values = [row[name] for name in names]
        known = [value for value in values if value is not None]
        cells = ["–" if value is None else f"{value:.2f}" for value in values]
        print(f"| {method} | {' | '.join(cells)} | {f'{sum(known) / len(known):.2f}' if known else '–'} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--models", nargs="*", default=[name for name in tasks.names() if name.startswith("compiled/")])
    parser.add_argument("--methods", nargs="*", default=[], help="only these; default: all")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--places", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # models this small are faster so
    start = time.perf_counter()
    if arguments.places:
        at_places, n_active = measure_places(arguments.models, arguments.pairs)
        for ablation, table in at_places.items():
            print_table(f"edges at places, {ablation}", arguments.models, table)
            print(f"| active | {' | '.join(str(n_active[name, ablation]) for name in arguments.models)} | |")
        print(f"\n{time.perf_counter() - start:.0f} s")
        return
    result, sizes = measure(arguments.models, arguments.pairs, arguments.methods)
    print("\n| | structural | " + " | ".join(f"{ablation}: active, jointly" for ablation in ABLATIONS) + " |")
    print("|---" * (len(ABLATIONS) + 2) + "|")
    for name in arguments.models:
        each = [sizes[name, ablation] for ablation in ABLATIONS]
        print(f"| {name} | {each[0][2]} | {' | '.join(f'{a}, {b}' for a, b, _ in each)} |")
    for (level, ablation), table in sorted(result.items(), key=lambda item: LEVELS.index(item[0][0])):
        print_table(f"{level}, {ablation}", arguments.models, table)
    print(f"\n{time.perf_counter() - start:.0f} s")
    if arguments.picture:
        from recovery_figure import recovery_figure

        figure = recovery_figure({ablation: result["edges", ablation] for ablation in ABLATIONS})
        figure.write_image(arguments.picture, scale=2)


if __name__ == "__main__":
    main()
