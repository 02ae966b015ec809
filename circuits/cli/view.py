"""`circuits view`: a circuit to look at in a browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.cli import completion
from circuits.cli.common import load, model_of
from circuits.cli.options import RunModel
from circuits.cli.terminal import say
from circuits.runs.files import check_source

if TYPE_CHECKING:
    from circuits.model import Model

ROOM = 2_000_000
"""Characters that attention may take in a page that `circuits view` writes."""


def view(
    target: Annotated[
        Path,
        typer.Argument(
            help="A run directory, a circuit.json, a features.json, a scores.safetensors, or a file of EAP-IG or MIB.",
            autocompletion=completion.runs,
        ),
    ],
    other: Annotated[
        Path | None, typer.Argument(help="A second one, shown beside the first.", autocompletion=completion.runs)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The HTML file to write. Default: the run's own page; with other options view.html in the run, or beside the file."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    edges: Annotated[
        int | None,
        typer.Option(help="Show this number of strongest edges by the scores, instead of the run's circuit.", min=1),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="TOML or JSON file with labels, groups and pinned nodes, as the page saves it.")
    ] = None,
    pair: Annotated[int, typer.Option(help="Number of the pair that is shown first, with its attention.", min=0)] = 0,
    attention: Annotated[bool, typer.Option(help="Show prompts and attention of heads, which loads the model.")] = True,
    model: RunModel = None,
) -> None:
    """Show a circuit, or two side by side, as one HTML page that works offline."""
    paths = [target] if other is None else [target, other]
    for path in paths:
        check_source(path)
    from circuits.runs.view import own_page

    plain = not (other or out or edges or labels or pair or model) and attention and target.is_dir()
    page = own_page(target) if plain else None
    if page is None:
        default = (
            target / ("circuit.html" if plain else "view.html") if target.is_dir() else target.with_suffix(".html")
        )
        page = out or default
        _write(paths, page, edges, labels, pair, attention and (target / "pairs.jsonl").is_file(), model)
        say(f"written to {page}")
    if not open_:
        say(f"open {page} in a browser, or add --open")
        return
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser was found here; open {page} in one")


def _write(
    paths: list[Path], page: Path, edges: int | None, labels: Path | None, pair: int, attention: bool, model: str | None
) -> None:
    from circuits.prompts.pairs import PromptPairs
    from circuits.results.naming import read_naming
    from circuits.runs.feature_source import is_feature_source
    from circuits.runs.feature_view import write_feature_page
    from circuits.runs.view import about_circuits, named_circuits
    from circuits.viewer import shown_prompts, write_viewer

    naming = None if labels is None else read_naming(labels)
    if any(is_feature_source(path) for path in paths):
        loaded = _model(paths[0], model) if attention else None
        write_feature_page(paths, page, edges, naming, pair, loaded)
        return
    circuits = named_circuits(paths, edges)
    title, about = about_circuits(paths, circuits, edges is None)
    prompts = ()
    if attention:
        loaded = _model(paths[0], model)
        pairs = PromptPairs.from_jsonl(paths[0] / "pairs.jsonl", loaded, trust_ids=True)
        prompts = shown_prompts(loaded, pairs, list(circuits.values()), pair, ROOM)
    write_viewer(circuits, page, title=title, about=about, prompts=prompts, naming=naming)


def _model(run: Path, name: str | None) -> "Model":
    """The model of a run."""
    from circuits.runs.files import read_run_file

    name, dtype, revision = model_of(read_run_file(run)["provenance"], name)
    return load(name, dtype, "auto", revision)
