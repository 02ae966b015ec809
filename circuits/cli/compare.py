"""`circuits compare`: several runs, judged by the same test."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.common import LARGEST_SEED, json_line, load, print_json
from circuits.cli.options import Config, Device
from circuits.cli.terminal import console, console_stderr, print_rows, stage
from circuits.errors import InputError


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, of one model on the same prompts.")],
    samples: Annotated[
        int, typer.Option(help="Fresh ablations at each alpha, to see which scores predict them. 0: none.", min=0)
    ] = 100,
    alphas: Annotated[
        str, typer.Option(help="Chances of a component to be ablated, comma separated.")
    ] = "0.05,0.1,0.2",
    ablation: Annotated[str, typer.Option(help="What takes an ablated component's place.")] = "zero",
    by: Annotated[str, typer.Option(help="Rank nodes by 'abs' (size) or 'signed' effect.")] = "abs",
    seed: Annotated[
        int, typer.Option(help="Random seed of the ablations and of the bootstrap.", min=0, max=LARGEST_SEED - 1)
    ] = 0,
    model: Annotated[str | None, typer.Option(help="The runs' model. Default: the name that they give.")] = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Also write the comparison to this JSON file.")] = None,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON instead of tables.")] = False,
    page: Annotated[
        Path | None, typer.Option(help="Also write figures to this HTML page, which works offline.")
    ] = None,
) -> None:
    """Compare the scores and circuits of finished runs: rankings, overlap, and how well each predicts ablations."""
    from circuits.files.atomic import replacing
    from circuits.measure.component_samples import check_samples
    from circuits.pages.comparison_tables import tables
    from circuits.results.provenance import said
    from circuits.runs.compare import compare_runs
    from circuits.runs.read import read_runs

    found = read_runs(runs)
    if len(found) < 2:
        raise InputError("a comparison needs at least two runs")
    try:
        chances = [float(alpha) for alpha in alphas.split(",")]
    except ValueError:
        raise InputError(f"alphas must be numbers, comma separated, got {alphas!r}") from None
    for alpha in chances:
        check_samples(1, alpha)
    origin = found[0].provenance
    loaded = (
        load(model or said(origin, "model"), said(origin, "dtype"), device, origin.get("revision")) if samples else None
    )
    result = compare_runs(
        found, loaded, samples=samples, alphas=chances, ablation=ablation, by=by, seed=seed, stage=stage
    )
    if page is not None:
        from circuits.pages.comparison import comparison_sections
        from circuits.plots import write_page

        title = f"Methods compared: {origin.get('task') or 'pairs'} in {origin.get('model')}"
        write_page(title, comparison_sections(result), page)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(json_line(result.to_dict()) + "\n", encoding="utf-8")
    for line in (result.caution, result.on_signs):
        if line is not None:
            console_stderr().print(line, soft_wrap=True, highlight=False)
    if json:
        print_json(result.to_dict())
        return
    for rows in tables(result):
        print_rows(*rows)
    if result.judge is not None:
        console().print(f"Fresh ablations: {result.judge}.", soft_wrap=True, highlight=False)
    console().print("Agreement between methods is not faithfulness: they can agree and be wrong together.")
