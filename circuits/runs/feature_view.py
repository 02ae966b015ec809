"""The page of circuits of features that `circuits view` writes."""

from collections.abc import Sequence
from pathlib import Path

from circuits.descriptions.features import feature_facts
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.results.naming import Naming
from circuits.runs.feature_source import model_of_run, read_features
from circuits.runs.findings import run_title
from circuits.runs.read import read_run
from circuits.viewer import shown_prompts, write_feature_viewer


def write_feature_page(
    paths: Sequence[Path], page: Path, edges: int | None = None, naming: Naming | None = None, first: int = 0,
    model: Model | None = None,
) -> None:  # fmt: skip
    """Writes the page of one or two circuits.

    Args:
        paths: runs with dictionaries, or files.
        page: the file.
        edges: only so many of the strongest edges.
        naming: labels and groups.
        first: number of the pair that is shown first.
        model: the model of the first run, for its prompts and for what its features are about; None: neither is shown.

    Raises:
        InputError: see `read_features`, `model_of_run`.
    """
    circuits = [read_features(path, edges) for path in paths]
    names = [path.resolve().stem if path.is_file() else path.resolve().name for path in paths]
    names = names if len(set(names)) == len(names) else list(map(str, paths))
    facts, prompts = {}, ()
    if model is not None:
        pairs = PromptPairs.from_jsonl(paths[0] / "pairs.jsonl", model, trust_ids=True)
        prompts = shown_prompts(model, pairs, [], first, room=0)
        for path, circuit in zip(paths, circuits, strict=True):
            if path.is_dir():
                own = model_of_run(model, read_run(path))
                facts |= {name: one.to_dict() for name, one in feature_facts(own, pairs, circuit.nodes).items()}
    title = run_title(read_run(paths[0]).provenance) if len(paths) == 1 and paths[0].is_dir() else None
    named = dict(zip(names, circuits, strict=True))
    write_feature_viewer(named, page, title=title, prompts=prompts, naming=naming, facts=facts)
