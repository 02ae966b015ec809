"""`circuits discover`: scores and circuits of a model on a task."""

from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli.common import (
    CPUS_HELP,
    DEFAULT_MODEL,
    DEVICE_MAP_HELP,
    GPUS_HELP,
    LARGEST_SEED,
    NUMBER_HELP,
    ON_HELP,
    THREADS_HELP,
    WORKERS,
    find_pairs,
    load,
    names_in,
    print_json,
    workers_on,
)
from circuits.cli.config import CONFIG_FILE, config_text, read_config
from circuits.terminal import print_summary, stage

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
    "Groups joined by + (heads, mlps, input, q, k, v, neurons), or names, comma separated. Default: heads+mlps."
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


def discover(
    target: Annotated[str, typer.Argument(help="A task (see 'circuits tasks') or a JSONL file of prompt pairs.")],
    model: Annotated[str, typer.Option(help="Short name, Hugging Face id, or directory.")] = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "eap-ig",
    metric: Annotated[str | None, typer.Option(help="What is explained. Default: what the task prefers.")] = None,
    ablation: Annotated[str | None, typer.Option(help=ABLATION_HELP)] = None,
    noise_tokens: Annotated[
        str | None, typer.Option(help="gaussian: roles to disturb, comma separated. Default: the tokens that differ.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Pairs. Default: 64 of a task, all of a file.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the pairs and of all that is drawn.", min=0, max=LARGEST_SEED)] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Pairs at a time. Default: by size.", min=1)] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, float64, bfloat16 or float16. Default: float32; of built models their own."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 …")] = "auto",
    device_map: Annotated[str | None, typer.Option(help=DEVICE_MAP_HELP)] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a Hugging Face model.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TARGET-METHOD.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with any of these options.", callback=read_config, is_eager=True),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the run's summary as JSON instead of tables.")] = False,
    on: Annotated[str | None, typer.Option(help=ON_HELP, rich_help_panel=WORKERS)] = None,
    workers: Annotated[int | None, typer.Option(help=NUMBER_HELP, rich_help_panel=WORKERS, min=1)] = None,
    cpus_per_worker: Annotated[int | None, typer.Option(help=CPUS_HELP, rich_help_panel=WORKERS, min=1)] = None,
    gpus_per_worker: Annotated[float, typer.Option(help=GPUS_HELP, rich_help_panel=WORKERS, min=0)] = 0,
    threads: Annotated[int | None, typer.Option(help=THREADS_HELP, rich_help_panel=WORKERS, min=1)] = None,
    edges: Annotated[
        int | None,
        _option(EDGES, "Edges to choose, dead ends among them pruned. Default: 200; acdc: this, or a threshold."),
    ] = None,
    threshold: Annotated[
        float | None,
        _option(EDGES, "Every edge of at least this score; acdc: edges whose ablation raises the loss by less go."),
    ] = None,
    random_circuits: Annotated[
        int | None, _option(EDGES, "Random circuits to compare with. Default: 5.", min=0)
    ] = None,
    steps: Annotated[
        int | None,
        _option(EDGES, "Points on the path from ablated to clean, default 5; edge-pruning: of training, default 300."),
    ] = None,
    gradient: Annotated[str | None, _option(CHOICE, GRADIENT_HELP)] = None,
    quadrature: Annotated[str | None, _option(CHOICE, "left, midpoint or right rule. Default: midpoint.")] = None,
    attention: Annotated[str | None, _option(CHOICE, "relp: live or detached. Default: live.")] = None,
    select: Annotated[
        str | None, _option(CHOICE, "Rule: top, greedy, positive-share or optimal. Default: top.")
    ] = None,
    by: Annotated[str | None, _option(CHOICE, "Rank edges by 'abs' (either sign) or 'signed'. Default: abs.")] = None,
    share: Annotated[float | None, _option(CHOICE, "positive-share: that share. Default: 0.5.", min=0, max=1)] = None,
    fill: Annotated[
        bool | None, typer.Option("--fill", help="Go on until so many edges are connected.", rich_help_panel=CHOICE)
    ] = None,
    refine: Annotated[str | None, _option(CHOICE, REFINE_HELP)] = None,
    refine_top: Annotated[int | None, _option(CHOICE, "How many edges are refined. Default: 200.", min=1)] = None,
    absolute: Annotated[
        bool | None,
        typer.Option("--absolute", help="acdc, edge-pruning: compare the size of a change.", rich_help_panel=EDGES),
    ] = None,
    reader_tests: Annotated[
        bool | None,
        typer.Option(
            "--reader-tests/--no-reader-tests", help="Also test whole inputs. Default: yes.", rich_help_panel=ACDC
        ),
    ] = None,
    order: Annotated[
        str | None, _option(ACDC, "Test each reader's edges by the size of their score by 'eap' or 'eap-ig'.")
    ] = None,
    start_layer: Annotated[int | None, _option(ACDC, "Edges into earlier layers stay. Default: 0.", min=0)] = None,
    start_circuit: Annotated[Path | None, _option(ACDC, "A circuit.json to prune further. Default: all edges.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="acdc, activation-patching, coar, exact-edges: continue a run that was killed."),
    ] = False,
    objective: Annotated[
        str | None, _option(PRUNING, "Metric that the masks are trained on. Default: kl_divergence.")
    ] = None,
    learning_rate: Annotated[float | None, _option(PRUNING, "Of the masks' log-odds. Default: 0.2.")] = None,
    nodes: Annotated[str | None, _option(NODES, NODES_HELP)] = None,
    positions: Annotated[str | None, _option(NODES, POSITIONS_HELP)] = None,
    direction: Annotated[
        str | None, _option(NODES, "activation-patching: denoising or noising. Default: denoising.")
    ] = None,
    window: Annotated[
        int | None,
        _option(NODES, "activation-patching: neighbouring layers patched together. Default: 1.", min=1),
    ] = None,
    qk_fix: Annotated[
        bool | None,
        typer.Option(
            "--qk-fix/--no-qk-fix", help="atp-star: recompute the softmax. Default: yes.", rich_help_panel=NODES
        ),
    ] = None,
    grad_drop: Annotated[
        bool | None,
        typer.Option(
            "--grad-drop/--no-grad-drop",
            help="atp-star: drop layers from gradients. Default: yes.",
            rich_help_panel=NODES,
        ),
    ] = None,
    receivers: Annotated[
        str | None, _option(PATHS, "Readers, comma separated: a9.h9<q>, a9.kv3<k>, m10, logits. Required.")
    ] = None,
    senders: Annotated[str | None, _option(PATHS, SENDERS_HELP)] = None,
    together: Annotated[
        bool | None, typer.Option("--together", help="Patch all senders at once.", rich_help_panel=PATHS)
    ] = None,
    mlps: Annotated[str | None, _option(PATHS, "MLPs between are frozen or live. Default: frozen.")] = None,
    samples: Annotated[int | None, _option(LINEAR, "Random sets of ablated components. Default: 2000.", min=2)] = None,
    alpha: Annotated[float | None, _option(LINEAR, "Chance of a component to be ablated. Default: 0.1.")] = None,
    fit: Annotated[str | None, _option(LINEAR, "least_squares, ridge or lasso. Default: least_squares.")] = None,
) -> None:
    """Score the edges of a model on a task, choose a circuit and test it; or score nodes. Written down."""
    given = locals()  # all options, by name
    from circuits.discover import METHODS, check_divided, check_options, choose_ablation
    from circuits.discover import discover as run_discovery
    from circuits.runs import check_out, check_record, forget_record, write_run, writing_run

    asked = {name: value for name, value in given.items() if name not in GENERAL and value is not None}
    options = {name: PARSED[name](value) if name in PARSED else value for name, value in asked.items()}
    check_options(method, options)
    chosen = choose_ablation(ablation or METHODS[method].ablation, names_in(noise_tokens), seed)
    out = out or Path("runs") / f"{Path(target).stem}-{method}"
    with writing_run(out):
        check_out(out, overwrite)
        record = check_record(out, METHODS[method].keeps_record(options), resume, overwrite)
        if record is not None:
            options["store"] = record
        source = find_pairs(target)
        if on is not None:
            check_divided(method)
        loaded = load(model, dtype, device, revision, device_map)
        pairs = source(loaded, n, seed)
        with workers_on(on, workers, cpus_per_worker, gpus_per_worker, threads) as who:
            found = run_discovery(
                loaded, pairs, method=method, metric=metric, ablation=chosen, seed=seed, batch_size=batch_size,
                stage=stage, workers=who, **options,
            )  # fmt: skip
        write_run(found, pairs, out, overwrite=overwrite, more={CONFIG_FILE: config_text(given)})
        forget_record(record)
    if json:
        print_json({"out": str(out), **found.summary()})
    else:
        print_summary(found, loaded, pairs, out)


def _nodes(text: str) -> str | list[str] | None:
    """Names of nodes, which hold digits or commas, or groups of them."""
    return names_in(text) if any(c == "," or c.isdecimal() for c in text) else text


def _positions(text: str) -> str | list[str] | None:
    return text if text in ("all", "each", "roles") else names_in(text)


GENERAL = (
    "target", "model", "method", "metric", "ablation", "noise_tokens", "n", "seed", "batch_size", "dtype", "device",
    "device_map", "revision", "out", "overwrite", "resume", "config", "json", "on", "workers", "cpus_per_worker",
    "gpus_per_worker", "threads",
)  # fmt: skip
"""Options of `discover` that every method has; all others are one method's or another's."""
PARSED: dict[str, Any] = {"nodes": _nodes, "positions": _positions, "receivers": names_in, "senders": _nodes}
"""Options that are more than one value."""
