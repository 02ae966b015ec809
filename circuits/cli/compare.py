"""`circuits compare`: several runs, judged by the same test."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.cli import completion
from circuits.cli.common import LARGEST_SEED, load, model_of
from circuits.cli.groups import grouped
from circuits.cli.options import Config, Device
from circuits.cli.terminal import json_line, note, print_json, print_rows, say, stage
from circuits.errors import InputError
from circuits.files.atomic import write_text
from circuits.methods.catalogue import check_known
from circuits.results.choice import check_ranking
from circuits.runs.files import read_whole

if TYPE_CHECKING:
    from circuits.evaluation.comparison import Comparison
    from circuits.runs.read import Run


@dataclass(frozen=True)
class Judged:
    """How scores are ranked, and the new ablations that they are to predict."""

    samples: Annotated[
        int,
        typer.Option(
            help="Number of new random ablations at each alpha, to test which scores predict them. 0: none.", min=0
        ),
    ] = 100
    alphas: Annotated[str, typer.Option(help="Ablation probabilities per component, comma separated.")] = "0.05,0.1,0.2"
    ablation: Annotated[
        str | None,
        typer.Option(
            help="What replaces an ablated component. Default: the ablation of the runs; zero if they differ in it.",
            autocompletion=completion.ablations,
        ),
    ] = None
    by: Annotated[
        str,
        typer.Option(
            help="Rank nodes by 'abs' (size) or 'signed' effect.", autocompletion=completion.choices(["abs", "signed"])
        ),
    ] = "abs"
    seed: Annotated[
        int, typer.Option(help="Random seed of the ablations and of the bootstrap.", min=0, max=LARGEST_SEED - 1)
    ] = 0


@grouped
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, of one model on the same prompts.", autocompletion=completion.runs),
    ],
    judged: Judged,
    model: Annotated[
        str | None,
        typer.Option(help="The runs' model. Default: the name in the runs.", autocompletion=completion.models),
    ] = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Also write the comparison to this JSON file.")] = None,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON instead of tables.")] = False,
    page: Annotated[
        Path | None, typer.Option(help="Also write figures to this HTML page, which works offline.")
    ] = None,
) -> None:
    """Compare the scores and circuits of finished runs: rankings, overlap, and how well each predicts ablations.

    With runs of dictionaries: the faithfulness of each run's strongest nodes, at equal numbers of nodes.
    """
    chances = _checked(runs, judged)
    from circuits.runs.compare import compare_runs, know_places
    from circuits.runs.read import read_runs

    read = read_runs(runs)
    origin = read[0].provenance
    if any(run.provenance.get("dictionaries") for run in read):
        return _features(read, model, device, out, json)
    loaded = None
    if judged.samples or know_places(read):
        name, dtype, revision = model_of(origin, model)
        loaded = load(name, dtype, device, revision)
    result = compare_runs(
        read, loaded, samples=judged.samples, alphas=chances, ablation=judged.ablation, by=judged.by, seed=judged.seed,
        stage=stage,
    )  # fmt: skip
    if page is not None:
        _write_page(result, f"Methods compared: {origin.get('task') or 'pairs'} in {origin.get('model')}", page)
    if out is not None:
        write_text(out, json_line(result.to_dict()) + "\n")
    _print(result, json)
    for path in filter(None, (out, page)):
        note(f"written to {path}")


def _features(runs: "list[Run]", model: str | None, device: str, out: Path | None, as_json: bool) -> None:
    """Compares runs with dictionaries to others: faithfulness at equal numbers of nodes."""
    from circuits.prompts.pairs import PromptPairs
    from circuits.runs.compare_features import compare_feature_runs

    name, dtype, revision = model_of(runs[0].provenance, model)
    loaded = load(name, dtype, device, revision)
    pairs = PromptPairs.from_jsonl(runs[0].path / "pairs.jsonl", loaded, trust_ids=True)
    with stage("keeping the strongest nodes") as progress:
        result = compare_feature_runs(runs, loaded, pairs, progress=progress)
    if out is not None:
        write_text(out, json_line(result.to_dict()) + "\n")
        note(f"written to {out}")
    if as_json:
        return print_json(result.to_dict())
    title = f"faithfulness of the strongest nodes ({result.metric}, {result.ablation}); of features also with all errors, without errors"
    print_rows(title, ("nodes", *result.results), result.table())
    if result.caution:
        say(f"warning: {result.caution}")


def _checked(runs: list[Path], judged: Judged) -> list[float]:
    """The ablation probabilities; refuses what can be refused before torch is imported."""
    if len(runs) < 2:
        raise InputError("a comparison needs at least two runs")
    try:
        chances = [float(alpha) for alpha in judged.alphas.split(",")]
    except ValueError:
        raise InputError(f"alphas must be numbers, comma separated, got {judged.alphas!r}") from None
    for alpha in chances:
        if not 0 < alpha < 1:
            raise InputError(f"alpha must be between 0 and 1, got {alpha}")
    check_known("ablation", judged.ablation)
    check_ranking(judged.by)
    for run in runs:
        read_whole(run)
    return chances


def _write_page(result: "Comparison", title: str, page: Path) -> None:
    from circuits.pages.comparison import comparison_sections
    from circuits.plots import write_page

    write_page(title, comparison_sections(result), page)


def _print(result: "Comparison", as_json: bool) -> None:
    from circuits.pages.comparison_tables import tables

    for line in (result.caution, result.on_signs):
        if line is not None:
            note(line)
    if as_json:
        print_json(result.to_dict())
        return
    for rows in tables(result):
        print_rows(*rows)
    if result.judge is not None:
        say(f"Fresh ablations: {result.judge}.")
    say("Agreement between methods is not faithfulness: they can agree and be wrong together.")
