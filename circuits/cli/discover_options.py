"""Options of `circuits discover`, as types of its parameters: those of every method, and those of one or another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli.common import LARGEST_SEED, names_in
from circuits.cli.options import WORKERS
from circuits.runs.option_limits import limits

METHOD_HELP = (
    "Edges: eap (one gradient), eap-ig (gradients integrated over inputs), edge-attribution (any --gradient), "
    "information-flow (no gradient), exact-edges (each edge ablated alone), acdc (edges ablated one after the other), "
    "edge-pruning (masks on edges, trained). Nodes: "
    "activation-patching, path-patching (paths from nodes to readers), attribution-patching and atp-star (estimates from "
    "gradients), coar (a linear model of random ablations). Options of another method are refused."
)
ABLATION_HELP = (
    "What replaces a value: interchange (its value on the corrupted prompt), zero, mean, mean_positional, gaussian (noise "
    "on the embedding), resample (its value on another prompt). Patching: interchange, gaussian, resample. Default: "
    "interchange; coar: zero."
)
NODES_HELP = (
    "Groups joined by + (heads, mlps, input, q, k, v, neurons; coar: rows and input_rows too), or names, comma separated. "
    "Default: heads+mlps."
)
POSITIONS_HELP = (
    "each, roles, names of roles, comma separated, or all (at once). Default: each for atp-star, all for the others."
)
SENDERS_HELP = "Writers: groups joined by + (heads, mlps, input), or names, comma separated. Default: heads+mlps."
EDGES = "Options of methods that choose edges"
CHOICE = "Options of eap, eap-ig, edge-attribution, exact-edges and information-flow"
ACDC, PRUNING, NODES, PATHS, LINEAR = (
    f"Options of {methods}"
    for methods in (
        "acdc", "edge-pruning", "activation-patching, attribution-patching, atp-star and coar", "path-patching", "coar",
    )
)  # fmt: skip
REFINE_HELP = (
    "Estimate the strongest edges again: 'node' (exact through the receiving node) or 'exact' (ablated one by one)."
)
GRADIENT_HELP = (
    "edge-attribution: clean, corrupted, clean-corrupted, ig, ig-activations, conductance or relp. Default: ig."
)


def _option(panel: str, text: str, **limits: Any) -> Any:
    """An option of some methods only: None where it is not given, so that it can be refused elsewhere."""
    return typer.Option(help=text, rich_help_panel=panel, **limits)


Target = Annotated[str, typer.Argument(help="A task (see 'circuits tasks') or a JSONL file of prompt pairs.")]
Model = Annotated[str, typer.Option(help="Short name, Hugging Face id, or directory.")]
Method = Annotated[str, typer.Option(help=METHOD_HELP)]
Metric = Annotated[str | None, typer.Option(help="What is explained. Default: what the task prefers.")]
Ablation = Annotated[str | None, typer.Option(help=ABLATION_HELP)]
NoiseTokens = Annotated[
    str | None, typer.Option(help="gaussian: roles to disturb, comma separated. Default: the tokens that differ.")
]
N = Annotated[int | None, typer.Option("--n", help="Pairs. Default: 64 of a task, all of a file.", min=1)]
Seed = Annotated[int, typer.Option(help="Of the pairs and of all that is drawn.", min=0, max=LARGEST_SEED)]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, float64, bfloat16 or float16. Default: float32; of built models their own."),
]
Out = Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TARGET-METHOD.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")]
Json = Annotated[bool, typer.Option("--json", help="Print the run's summary as JSON instead of tables.")]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads of one operation in each process. Numbers depend on it in the last bits at most, and on the number of workers "
        "not at all. Default: torch's.",
        rich_help_panel=WORKERS,
        min=1,
    ),
]
Edges = Annotated[
    int | None,
    _option(EDGES, "Edges to choose, dead ends among them pruned. Default: 200; acdc: this, or a threshold."),
]
Threshold = Annotated[
    float | None,
    _option(EDGES, "Every edge of at least this score; acdc: edges whose ablation raises the loss by less go."),
]
RandomCircuits = Annotated[
    int | None, _option(EDGES, "Random circuits to compare with. Default: 5.", **limits("random_circuits"))
]
Steps = Annotated[
    int | None,
    _option(
        EDGES,
        "Points on the path from ablated to clean, default 5; edge-pruning: of training, default 300.",
        **limits("steps"),
    ),
]
Gradient = Annotated[str | None, _option(CHOICE, GRADIENT_HELP)]
Quadrature = Annotated[str | None, _option(CHOICE, "left, midpoint or right rule. Default: midpoint.")]
Attention = Annotated[str | None, _option(CHOICE, "relp: live or detached. Default: live.")]
Select = Annotated[str | None, _option(CHOICE, "Rule: top, greedy, positive-share or optimal. Default: top.")]
By = Annotated[str | None, _option(CHOICE, "Rank edges by 'abs' (either sign) or 'signed'. Default: abs.")]
Share = Annotated[float | None, _option(CHOICE, "positive-share: that share. Default: 0.5.", **limits("share"))]
Fill = Annotated[
    bool | None, typer.Option("--fill", help="Go on until so many edges are connected.", rich_help_panel=CHOICE)
]
Refine = Annotated[str | None, _option(CHOICE, REFINE_HELP)]
RefineTop = Annotated[int | None, _option(CHOICE, "How many edges are refined. Default: 200.", **limits("refine_top"))]
Absolute = Annotated[
    bool | None,
    typer.Option("--absolute", help="acdc, edge-pruning: compare the size of a change.", rich_help_panel=EDGES),
]
ReaderTests = Annotated[
    bool | None,
    typer.Option(
        "--reader-tests/--no-reader-tests", help="Also test whole inputs. Default: yes.", rich_help_panel=ACDC
    ),
]
Order = Annotated[
    str | None, _option(ACDC, "Test each reader's edges by the size of their score by 'eap' or 'eap-ig'.")
]
StartLayer = Annotated[
    int | None, _option(ACDC, "Edges into earlier layers stay. Default: 0.", **limits("start_layer"))
]
StartCircuit = Annotated[Path | None, _option(ACDC, "A circuit.json to prune further. Default: all edges.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="acdc, activation-patching, coar, exact-edges: continue a run that was killed."),
]
Objective = Annotated[str | None, _option(PRUNING, "Metric that the masks are trained on. Default: kl_divergence.")]
LearningRate = Annotated[float | None, _option(PRUNING, "Of the masks' log-odds. Default: 0.2.")]
Nodes = Annotated[str | None, _option(NODES, NODES_HELP)]
Positions = Annotated[str | None, _option(NODES, POSITIONS_HELP)]
Direction = Annotated[str | None, _option(NODES, "activation-patching: denoising or noising. Default: denoising.")]
Window = Annotated[
    int | None,
    _option(NODES, "activation-patching: neighbouring layers patched together. Default: 1.", **limits("window")),
]
QkFix = Annotated[
    bool | None,
    typer.Option("--qk-fix/--no-qk-fix", help="atp-star: recompute the softmax. Default: yes.", rich_help_panel=NODES),
]
GradDrop = Annotated[
    bool | None,
    typer.Option(
        "--grad-drop/--no-grad-drop",
        help="atp-star: drop layers from gradients. Default: yes.",
        rich_help_panel=NODES,
    ),
]
Receivers = Annotated[
    str | None, _option(PATHS, "Readers, comma separated: a9.h9<q>, a9.kv3<k>, m10, logits. Required.")
]
Senders = Annotated[str | None, _option(PATHS, SENDERS_HELP)]
Together = Annotated[bool | None, typer.Option("--together", help="Patch all senders at once.", rich_help_panel=PATHS)]
Mlps = Annotated[str | None, _option(PATHS, "MLPs between are frozen or live. Default: frozen.")]
Inputs = Annotated[
    str | None, _option(PATHS, "Receivers' inputs are shifted by what arrives, or set to it. Default: shifted.")
]
Samples = Annotated[
    int | None, _option(LINEAR, "Random sets of ablated components. Default: 2000.", **limits("samples"))
]
Alpha = Annotated[float | None, _option(LINEAR, "Chance of a component to be ablated. Default: 0.1.")]
Fit = Annotated[str | None, _option(LINEAR, "least_squares, ridge or lasso. Default: least_squares.")]


def _nodes(text: str) -> str | list[str] | None:
    """Names of nodes, which hold digits or commas, or groups of them."""
    return names_in(text) if any(c == "," or c.isdecimal() for c in text) else text


def _positions(text: str) -> str | list[str] | None:
    return text if text in ("all", "each", "roles") else names_in(text)


GENERAL = (
    "target", "model", "method", "metric", "ablation", "noise_tokens", "n", "seed", "one_length", "batch_size", "dtype", "device",
    "device_map", "revision", "out", "overwrite", "resume", "config", "json", "on", "workers", "cpus_per_worker",
    "gpus_per_worker", "threads",
)  # fmt: skip
"""Options of `discover` that every method has; all others are one method's or another's."""
PARSED: dict[str, Any] = {"nodes": _nodes, "positions": _positions, "receivers": names_in, "senders": _nodes}
"""Options that are more than one value."""


def of_method(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of the method, of all options by name: those that were given and are not every method's, parsed."""
    asked = {name: value for name, value in given.items() if name not in GENERAL and value is not None}
    return {name: PARSED[name](value) if name in PARSED else value for name, value in asked.items()}
