"""`circuits discover`: scores and circuits of a model on a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuits.cli import discover_options as of
from circuits.cli.common import DEFAULT_MODEL, find_pairs, load, names_in, print_json, print_warnings, workers_on
from circuits.cli.config import CONFIG_FILE, config_text, finished_already
from circuits.cli.options import (
    BatchSize,
    Config,
    CpusPerWorker,
    Device,
    DeviceMap,
    GpusPerWorker,
    NumberOfWorkers,
    On,
    OneLength,
    Revision,
)
from circuits.cli.terminal import console, console_stderr, print_summary, stage


def discover(
    target: of.Target, model: of.Model = DEFAULT_MODEL, method: of.Method = "eap-ig", metric: of.Metric = None,
    ablation: of.Ablation = None, noise_tokens: of.NoiseTokens = None, n: of.N = None, seed: of.Seed = 0,
    one_length: OneLength = None, batch_size: BatchSize = None, dtype: of.Dtype = None, device: Device = "auto", device_map: DeviceMap = None,
    revision: Revision = None, out: of.Out = None, overwrite: of.Overwrite = False, config: Config = None,
    json: of.Json = False, on: On = None, workers: NumberOfWorkers = None, cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = 0, threads: of.Threads = None, edges: of.Edges = None,
    threshold: of.Threshold = None, random_circuits: of.RandomCircuits = None, steps: of.Steps = None,
    gradient: of.Gradient = None, quadrature: of.Quadrature = None, attention: of.Attention = None,
    select: of.Select = None, by: of.By = None, share: of.Share = None, fill: of.Fill = None,
    refine: of.Refine = None, refine_top: of.RefineTop = None, absolute: of.Absolute = None,
    reader_tests: of.ReaderTests = None, order: of.Order = None, start_layer: of.StartLayer = None,
    start_circuit: of.StartCircuit = None, resume: of.Resume = False, objective: of.Objective = None,
    learning_rate: of.LearningRate = None, nodes: of.Nodes = None, positions: of.Positions = None,
    direction: of.Direction = None, window: of.Window = None, qk_fix: of.QkFix = None,
    grad_drop: of.GradDrop = None, receivers: of.Receivers = None, senders: of.Senders = None,
    together: of.Together = None, mlps: of.Mlps = None, inputs: of.Inputs = None, samples: of.Samples = None, alpha: of.Alpha = None,
    fit: of.Fit = None,
) -> None:  # fmt: skip
    """Score the edges of a model on a task, choose a circuit and test it; or score nodes. Written down."""
    given = locals()  # all options, by name
    from circuits.question.doubts import collected
    from circuits.question.metrics import get_metric
    from circuits.runs.directory import check_out, check_record, finish, forget_record, write_run, writing_run
    from circuits.runs.discover import METHODS, check_divided, check_options, choose_ablation
    from circuits.runs.discover import discover as run_discovery

    options = of.of_method(given)
    check_options(method, options)
    if metric is not None:
        get_metric(metric)
    chosen = choose_ablation(ablation or METHODS[method].ablation, names_in(noise_tokens), seed)
    out = out or Path("runs") / f"{Path(target).stem}-{method}"
    with writing_run(out):
        recorded = METHODS[method].keeps_record(options)
        there = finished_already(out, given) if resume and recorded and not overwrite else None
        if there is not None and there.whole:
            finish(out, check_record(out, recorded, resume, overwrite))
            return print_finished(there.told, out, json)
        overwrite = overwrite or there is not None  # a damaged run of the same options is made again
        check_out(out, overwrite)
        record = check_record(out, recorded, resume, overwrite)
        if record is not None:
            options["store"] = record
        source = find_pairs(target)
        if on is not None:
            check_divided(method)
        loaded = load(model, dtype, device, revision, device_map)
        pairs = source(loaded, n, seed, bool(one_length))
        if n is not None and len(pairs) < n:
            of_length = " of one length" if one_length else ""
            console_stderr().print(
                f"{target} has {len(pairs)} pairs{of_length}, not {n}", soft_wrap=True, highlight=False
            )
        with workers_on(on, workers, cpus_per_worker, gpus_per_worker, threads) as who, collected():
            found = run_discovery(
                loaded, pairs, method=method, metric=metric, ablation=chosen, seed=seed, batch_size=batch_size,
                stage=stage, workers=who, **options,
            )  # fmt: skip
        write_run(found, pairs, out, overwrite=overwrite, more={CONFIG_FILE: config_text(given)})
        forget_record(record)
    if json:
        print_json({"out": str(out), **found.summary()})
        print_warnings(found.warnings)
    else:
        print_summary(found, loaded, pairs, out)


def print_finished(told: Mapping[str, Any], out: Path, json: bool) -> None:
    """What `--resume` says of a run that is finished."""
    if json:
        print_json({"out": str(out), **told["summary"]})
    else:
        console().print(f"{out} is finished already; there is nothing to resume", soft_wrap=True)
