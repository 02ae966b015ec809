"""Circuits of features in other formats: `circuits export`."""

import json
from collections.abc import Callable
from pathlib import Path

import networkx as nx

from circuits.errors import InputError
from circuits.export.attribution_graphs import write_attribution_graph
from circuits.files.atomic import write_text
from circuits.results.feature_circuit import FeatureCircuit
from circuits.results.naming import Naming


def export_features(
    circuit: FeatureCircuit,
    out: Path,
    form: str,
    *,
    naming: Naming | None = None,
    prompt: str = "",
    overwrite: bool = False,
) -> Path:
    """Writes a circuit of features.

    Args:
        circuit: the circuit.
        out: the file.
        form: `json`, `graphml` or `neuronpedia` (an attribution graph).
        naming: labels, which an attribution graph shows.
        prompt: an example prompt, for an attribution graph.
        overwrite: replace an existing file.

    Raises:
        InputError: another format, or the file exists.
    """
    if form not in FORMATS:
        raise InputError(f"a circuit of features is written as {', '.join(FORMATS)}, not as {form}")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; use --overwrite to replace it")
    FORMATS[form](circuit, out, naming or Naming(), prompt)
    return out


def _json(circuit: FeatureCircuit, out: Path, naming: Naming, prompt: str) -> None:
    circuit.to_json(out)


def _graphml(circuit: FeatureCircuit, out: Path, naming: Naming, prompt: str) -> None:
    graph = circuit.to_networkx()
    graph.graph = {"provenance": json.dumps(graph.graph.get("provenance", {}))}
    for *_, attributes in [*graph.nodes(data=True), *graph.edges(data=True)]:
        for name in [name for name, value in attributes.items() if value is None]:
            del attributes[name]  # GraphML has no null
    for node, text in naming.labels.items():
        if node in graph:
            graph.nodes[node]["label"] = text
    write_text(out, "\n".join(nx.generate_graphml(graph)) + "\n")


def _neuronpedia(circuit: FeatureCircuit, out: Path, naming: Naming, prompt: str) -> None:
    write_attribution_graph(circuit, out, prompt=prompt, labels=naming.labels)


FORMATS: dict[str, Callable[[FeatureCircuit, Path, Naming, str], None]] = {
    "json": _json,
    "graphml": _graphml,
    "neuronpedia": _neuronpedia,
}
