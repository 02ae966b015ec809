"""`circuits export`: a circuit in another format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli import completion
from circuits.cli.groups import grouped
from circuits.cli.options import finite
from circuits.cli.terminal import say
from circuits.export.catalogue import FORMATS, find_format
from circuits.results.naming import Naming, read_naming
from circuits.runs.files import check_source


@dataclass(frozen=True)
class Shown:
    """What is shown, and how."""

    labels: Annotated[
        Path | None, typer.Option(help="TOML or JSON file with the tables 'labels' and 'groups': names of nodes.")
    ] = None
    max_edges: Annotated[
        int | None, typer.Option(help="Show only this many of the strongest edges; pictures without dead ends.", min=1)
    ] = None
    colours: Annotated[
        str | None,
        typer.Option(
            help="What colours show: 'sign' of the effect (default), or 'kind' (q, k, v).",
            autocompletion=completion.choices(["sign", "kind"]),
        ),
    ] = None
    direction: Annotated[
        str | None,
        typer.Option(help="Layers go 'up' (default) or 'right'.", autocompletion=completion.choices(["up", "right"])),
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(
            help="Of a circuit over places: 'tokens' (default): a column for each span; or 'graph': summed over places.",
            autocompletion=completion.choices(["tokens", "graph"]),
        ),
    ] = None
    dpi: Annotated[float | None, typer.Option(help="Resolution of a PNG. Default: 200.", callback=finite)] = None


@dataclass(frozen=True)
class Benchmark:
    """What the files of EAP-IG and MIB need and a circuit does not have."""

    d_model: Annotated[
        int | None, typer.Option(help="Width of the residual stream, for EAP-IG's and MIB's files.", min=1)
    ] = None
    mib_task: Annotated[str | None, typer.Option(help="MIB's name of the task. Default: the run's.")] = None
    mib_model: Annotated[str | None, typer.Option(help="MIB's name of the model. Default: the run's.")] = None


@grouped
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_CIRCUIT",
            help="A run directory, a circuit.json, a features.json, a scores.safetensors, or a file of EAP-IG or MIB.",
            autocompletion=completion.runs,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write; for mib the submission's folder.")],
    *,
    to: Annotated[
        str | None,
        typer.Option(
            help=f"Format: {', '.join(FORMATS)}. Default: by the suffix of --out.", autocompletion=completion.formats
        ),
    ] = None,
    edges: Annotated[
        int | None, typer.Option(help="Take the N strongest edges by the scores instead of the circuit.", min=1)
    ] = None,
    shown: Shown,
    benchmark: Benchmark,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write a circuit for a paper, for another tool, or for a benchmark."""
    form = find_format(to, out)
    options = {name: value for name, value in _options(shown, benchmark).items() if value is not None}
    form.check(out, [*options, *(["naming"] if shown.labels else [])], overwrite)
    check_source(source)
    naming = read_naming(shown.labels) if shown.labels is not None else None
    from circuits.runs.feature_source import is_feature_source

    if is_feature_source(source):
        return _features(source, out, form.name, edges, naming, overwrite)
    from circuits.export.formats import export_circuit
    from circuits.runs.source import read_source

    read = read_source(source, edges, form.every_edge)
    if "prompt" in form.takes:
        options |= {"prompt": read.prompt, "tokens": read.tokens}
    written = export_circuit(read.circuit, out, form.name, naming=naming, overwrite=overwrite, **options)
    if edges is not None and len(read.circuit) < edges:
        say(
            f"{len(read.circuit)} of the {edges} strongest edges are on a path from input to logits; only these are written"
        )
    if shown.max_edges is not None and "colours" in form.takes:
        from circuits.export.draw import draw

        say(draw(read.circuit, naming, max_edges=shown.max_edges, layout=shown.layout).selection)
    say(f"written to {written}")


def _features(source: Path, out: Path, form: str, edges: int | None, naming: Naming | None, overwrite: bool) -> None:
    """Writes a circuit of features."""
    from circuits.export.feature_formats import export_features
    from circuits.runs.feature_source import read_features
    from circuits.runs.source import example_prompt

    prompt, _ = example_prompt(source / "pairs.jsonl") if source.is_dir() else ("", ())
    say(
        f"written to {export_features(read_features(source, edges), out, form, naming=naming, prompt=prompt, overwrite=overwrite)}"
    )


def _options(shown: Shown, benchmark: Benchmark) -> dict[str, Any]:
    """The options of formats, by their names in Python."""
    return {
        "max_edges": shown.max_edges, "colours": shown.colours, "direction": shown.direction, "layout": shown.layout,
        "dpi": shown.dpi, "d_model": benchmark.d_model, "task": benchmark.mib_task, "model": benchmark.mib_model,
    }  # fmt: skip
