"""`circuits view`: a circuit to look at in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.common import load
from circuits.cli.options import RunModel
from circuits.cli.terminal import console


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
    from circuits.files.untrusted import text_or_none
    from circuits.prompts.pairs import PromptPairs
    from circuits.results.provenance import said
    from circuits.runs.source import read_source
    from circuits.viewer import write_viewer
    from circuits.viewer.attention import attention_patterns

    paths = [target] if other is None else [target, other]
    names = [path.resolve().stem for path in paths]
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    shown = {name: read_source(path, edges).circuit for name, path in zip(names, paths, strict=True)}
    first = next(iter(shown.values()))
    origin, tokens, patterns = first.provenance, [], {}
    about = [f"{origin.get('task') or 'pairs'} in {origin.get('model')}"] if origin.get("model") else []
    if attention and (target / "pairs.jsonl").is_file():
        loaded = load(
            model or said(origin, "model"),
            said(origin, "dtype"),
            "auto",
            text_or_none(origin.get("revision"), "revision"),
        )
        pairs = PromptPairs.from_jsonl(target / "pairs.jsonl", loaded, trust_ids=True)
        nodes = dict.fromkeys(node for circuit in shown.values() for node in circuit.nodes)
        tokens, patterns = attention_patterns(loaded, pairs, list(nodes), pair)
        about.append(f"example: {''.join(tokens)}" if loaded.tokenizer else f"example: {' '.join(tokens)}")
    page = out or (target / "view.html" if target.is_dir() else target.with_suffix(".html"))
    write_viewer(shown, page, title=about[0] if about else None, about=about, tokens=tokens, patterns=patterns)
    console().print(f"written to {page}; open it in a browser", soft_wrap=True)
