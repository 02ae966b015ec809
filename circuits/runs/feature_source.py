"""Circuits of mixed nodes that `circuits view`, `export`, `evaluate` and `compare` read: of a run with dictionaries, or a file."""

from dataclasses import replace
from pathlib import Path

from circuits.dictionaries.named import with_named
from circuits.errors import InputError
from circuits.files.untrusted import read_json, shown
from circuits.model import Model
from circuits.results.feature_circuit import FORMAT, FeatureCircuit
from circuits.runs.files import FEATURES_FILE
from circuits.runs.read import Run


def is_feature_source(path: Path) -> bool:
    """Whether a run has a circuit of features, or a file is one."""
    if path.is_dir():
        return (path / FEATURES_FILE).is_file()
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        data = read_json(path)
    except InputError:
        return False
    graph = data.get("graph") if isinstance(data, dict) else None
    return isinstance(graph, dict) and graph.get("format") == FORMAT


def read_features(path: Path, edges: int | None = None) -> FeatureCircuit:
    """The circuit of features of a run, or in a file.

    Args:
        path: a run directory, or a JSON file.
        edges: only so many of its strongest edges; None: all.

    Raises:
        InputError: there is none, or the file cannot be read.
    """
    if not is_feature_source(path):
        raise InputError(f"{path} holds no circuit of features; a run has one if it was given --dictionary")
    circuit = FeatureCircuit.from_json(path / FEATURES_FILE if path.is_dir() else path)
    if edges is None or not circuit.edge_scores:
        return circuit
    order = sorted(range(len(circuit.edges)), key=lambda i: -abs(circuit.edge_scores[i] or 0.0))[:edges]
    columns = {
        name: tuple(column[i] for i in order)
        for name in ("edges", "edge_scores", "stderr")
        if (column := getattr(circuit, name))
    }
    return replace(circuit, **columns)


def model_of_run(model: Model, run: Run) -> Model:
    """The model with the run's dictionaries; the model itself for a run without any.

    Raises:
        InputError: the dictionaries are not there any more, or have changed.
    """
    if not run.provenance.get("dictionaries"):
        return model
    options = run.record.get("options")
    names = options.get("dictionary") if isinstance(options, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{run.path} does not record where its dictionaries are, got {shown(names)}")
    return with_named(model, names, run.provenance)
