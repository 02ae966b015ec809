"""`circuits discover`: scores and circuits of a model on a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.cli.common import check_workers, find_pairs, load, names_in, resumable, workers_on
from circuits.cli.config import config_text
from circuits.cli.discover_options import Computed, Divided, QuestionOptions, Target, Written
from circuits.cli.file_pairs import FilePairs, note_unfit
from circuits.cli.groups import grouped
from circuits.cli.terminal import note, print_finished, print_result, stage
from circuits.methods.catalogue import check_divided, check_known, check_noise, check_reference, declared
from circuits.plugins import check_model_path
from circuits.prompts.source import find_file
from circuits.runs.files import CONFIG_FILE

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.prompts.pairs import PromptPairs


@grouped
def discover(
    target: Target,
    asked: QuestionOptions,
    reading: FilePairs,
    computed: Computed,
    written: Written,
    divided: Divided,
    given: Mapping[str, Any],
    **options: Any,
) -> None:
    """Score the edges of a model on a task, choose a circuit and test it; or score nodes. Write a run directory.

    Each method has further options: 'circuits methods show METHOD' lists them.
    """
    from circuits.runs.directory import RunDirectory

    options, source = _checked(asked, divided, options), find_pairs(target)
    how, reference = reading.check(source, asked.metric), find_file(asked.reference) if asked.reference else None
    out = RunDirectory(written.out or Path("runs") / f"{Path(target).stem}-{asked.method}", written.overwrite)
    with out.claimed():
        recorded = declared(asked.method).keeps_record(options)
        if finished := out.begin(recorded, written.resume, config_text(given)):
            return print_finished(finished, out.path, written.json)
        from circuits.question.doubts import collected
        from circuits.runs.discover import discover as run_discovery

        model = load_for(asked.model, computed)
        pairs = source(model, asked.n, asked.seed, bool(asked.one_length), how, stage)
        mean_of = None if reference is None else reference(model, None, asked.seed, reading=how)
        _note(target, asked, pairs, mean_of)
        note_memory(model, pairs, computed)
        with workers_on(**vars(divided)) as workers, collected(), resumable(recorded):
            result = run_discovery(
                model, pairs, method=asked.method, metric=asked.metric, ablation=asked.ablation,
                noise_tokens=names_in(asked.noise_tokens), reference=mean_of, seed=asked.seed, stage=stage,
                batch_size=computed.batch_size, workers=workers, store=out.record, **options,
            )  # fmt: skip
        out.write(result, pairs, {CONFIG_FILE: config_text(given)})
    print_result(result, model, pairs, out.path, written.json)


def load_for(name: str, computed: Computed) -> "Model":
    """Loads the model as the options say."""
    where, memory = computed.device_map, computed.memory
    return load(name, computed.dtype, computed.device, computed.revision, where, memory=memory)


def note_memory(model: "Model", pairs: "PromptPairs", computed: Computed) -> None:
    """Says how much memory a batch's passes will need, if that is much or a budget was given."""
    from circuits.question.batch_memory import NOTABLE, estimate, largest_batch

    size = computed.batch_size or largest_batch(model, pairs)
    needed, again = estimate(model, pairs, size)
    if needed > NOTABLE or computed.memory is not None:
        how = ", blocks computed again for gradients" if again else ""
        note(f"expects about {needed / 1e9:.2g} GB besides the weights ({min(size, len(pairs))} pairs at a time{how})")


def _note(target: str, asked: QuestionOptions, pairs: "PromptPairs", reference: "PromptPairs | None") -> None:
    note_unfit(pairs, reference)
    if asked.n is not None and len(pairs) < asked.n:
        note(f"{target} has {len(pairs)} pairs{' of one length' if asked.one_length else ''}, not {asked.n}")


def _checked(asked: QuestionOptions, divided: Divided, options: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options by value; refuses what can be refused before torch is imported."""
    method, parsed = declared(asked.method), parsed_options(asked.method, options)
    check_model_path(asked.model)
    check_known("metric", asked.metric)
    check_known("ablation", asked.ablation)
    check_noise(asked.ablation or method.ablation, asked.noise_tokens, asked.seed)
    check_reference(asked.ablation or method.ablation, asked.reference)
    check_workers(**vars(divided))
    if divided.on is not None:
        check_divided(asked.method)
    return parsed


def parsed_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options by value; refuses those that it does not take."""
    method = declared(name)
    parsed = {
        option: method.options[option].kind.parsed(value) if option in method.options else value
        for option, value in options.items()
    }
    method.check(parsed)
    return parsed
