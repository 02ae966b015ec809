"""`circuits view`: a circuit to look at in a browser."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.cli.common import load, model_of
from circuits.cli.options import RunModel
from circuits.cli.terminal import say
from circuits.runs.files import check_source

if TYPE_CHECKING:
    from circuits.results.circuit import Circuit


def view(
    target: Annotated[
        Path, typer.Argument(help="A run directory, a circuit.json, a scores.safetensors, or a file of EAP-IG or MIB.")
    ],
    other: Annotated[Path | None, typer.Argument(help="Another, to be shown beside it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page. Default: view.html in the run, or beside the file.")
    ] = None,
    edges: Annotated[
        int | None, typer.Option(help="Show so many of the strongest scored edges, not the run's circuit.", min=1)
    ] = None,
    pair: Annotated[int, typer.Option(help="The pair whose clean prompt shows attention.", min=0)] = 0,
    attention: Annotated[bool, typer.Option(help="Show attention of heads, which loads the model.")] = True,
    model: RunModel = None,
) -> None:
    """Write one HTML page that shows a circuit, or two side by side; it works offline."""
    paths = [target] if other is None else [target, other]
    for path in paths:
        check_source(path)
    from circuits.runs.source import read_source
    from circuits.viewer import write_viewer

    names = [path.resolve().stem for path in paths]
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    shown = {name: read_source(path, edges).circuit for name, path in zip(names, paths, strict=True)}
    origin, tokens, patterns = next(iter(shown.values())).provenance, [], {}
    about = [f"{origin.get('task') or 'pairs'} in {origin.get('model')}"] if origin.get("model") else []
    if attention and (target / "pairs.jsonl").is_file():
        tokens, patterns, example = _attention(target, shown, pair, model)
        about.append(f"example: {example}")
    page = out or (target / "view.html" if target.is_dir() else target.with_suffix(".html"))
    write_viewer(shown, page, title=about[0] if about else None, about=about, tokens=tokens, patterns=patterns)
    say(f"written to {page}; open it in a browser")


def _attention(
    run: Path, circuits: Mapping[str, "Circuit"], pair: int, model: str | None
) -> tuple[list[str], dict[str, Any], str]:
    """The tokens of a run's pair, the attention of the circuits' heads on it, and its text."""
    from circuits.prompts.pairs import PromptPairs
    from circuits.viewer.attention import attention_patterns

    name, dtype, revision = model_of(next(iter(circuits.values())).provenance, model)
    loaded = load(name, dtype, "auto", revision)
    pairs = PromptPairs.from_jsonl(run / "pairs.jsonl", loaded, trust_ids=True)
    nodes = dict.fromkeys(node for circuit in circuits.values() for node in circuit.nodes)
    tokens, patterns = attention_patterns(loaded, pairs, list(nodes), pair)
    return tokens, patterns, ("" if loaded.tokenizer else " ").join(tokens)
