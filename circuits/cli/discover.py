"""`circuits discover`: scores and circuits of a model on a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuits.cli.common import check_known, find_pairs, load, names_in, print_json, print_warnings, workers_on
from circuits.cli.config import CONFIG_FILE, config_text, finished_already
from circuits.cli.discover_options import Asked, Computed, Divided, Target, Written
from circuits.cli.file_pairs import FilePairs, print_unfit
from circuits.cli.groups import grouped
from circuits.cli.terminal import console, console_stderr, print_summary, stage
from circuits.methods.catalogue import ablations, declared, metrics


@grouped
def discover(
    target: Target,
    asked: Asked,
    reading: FilePairs,
    computed: Computed,
    written: Written,
    divided: Divided,
    given: Mapping[str, Any],
    **options: Any,
) -> None:
    """Score the edges of a model on a task, choose a circuit and test it; or score nodes. Written to a run directory."""
    method = declared(asked.method)
    options = {
        name: method.options[name].kind.parsed(value) if name in method.options else value
        for name, value in options.items()
    }
    method.check(options)  # in a tenth of a second; the method's own check comes when it is imported
    check_known("metric", asked.metric, metrics())
    check_known("ablation", asked.ablation, ablations())
    source, how = find_pairs(target), reading.reading
    from circuits.methods.catalogue import method as find_method
    from circuits.question.doubts import collected
    from circuits.runs.directory import check_out, check_record, finish, forget_record, write_run, writing_run
    from circuits.runs.discover import check_divided, choose_ablation
    from circuits.runs.discover import discover as run_discovery

    find_method(asked.method).check(options)
    chosen = choose_ablation(
        asked.ablation or method.ablation, asked.noise_tokens and names_in(asked.noise_tokens), asked.seed
    )
    out = written.out or Path("runs") / f"{Path(target).stem}-{asked.method}"
    recorded = method.keeps_record(options)
    with writing_run(out):
        there = finished_already(out, given) if written.resume and recorded and not written.overwrite else None
        if there is not None and there.whole:
            finish(out, check_record(out, recorded, written.resume, written.overwrite))
            return print_finished(there.told, out, written.json)
        overwrite = written.overwrite or there is not None  # a damaged run of the same options is made again
        check_out(out, overwrite)
        record = check_record(out, recorded, written.resume, overwrite)
        if divided.on is not None:
            check_divided(asked.method)
        model = load(asked.model, computed.dtype, computed.device, computed.revision, computed.device_map)
        pairs = source(model, asked.n, asked.seed, bool(asked.one_length), how)
        print_unfit(pairs)
        if asked.n is not None and len(pairs) < asked.n:
            of_length = " of one length" if asked.one_length else ""
            console_stderr().print(
                f"{target} has {len(pairs)} pairs{of_length}, not {asked.n}", soft_wrap=True, highlight=False
            )
        with workers_on(**vars(divided)) as workers, collected():
            found = run_discovery(
                model, pairs, method=asked.method, metric=asked.metric, ablation=chosen, seed=asked.seed,
                batch_size=computed.batch_size, stage=stage, workers=workers, store=record, **options,
            )  # fmt: skip
        write_run(found, pairs, out, overwrite=overwrite, more={CONFIG_FILE: config_text(given)})
        forget_record(record)
    if written.json:
        print_json({"out": str(out), **found.summary()})
        print_warnings(found.warnings)
    else:
        print_summary(found, model, pairs, out)


def print_finished(told: Mapping[str, Any], out: Path, json: bool) -> None:
    """What `--resume` says of a run that is finished."""
    if json:
        print_json({"out": str(out), **told["summary"]})
    else:
        console().print(f"{out} is finished already; there is nothing to resume", soft_wrap=True)
