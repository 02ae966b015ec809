"""What `circuits export` and `circuits view` read: a run directory, a circuit, scores, or a file of EAP-IG or MIB.

The strongest edges can be chosen from any file that holds scores, whichever program wrote it.
"""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from circuits.errors import ContentWarning, InputError
from circuits.export import eap_ig
from circuits.export.collapsed import collapsed
from circuits.files.untrusted import read_json
from circuits.prompts.pairs import PromptPairs
from circuits.results import circuit_file
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.runs.files import check_source


@dataclass(frozen=True, eq=False)
class Source:
    """A circuit, and an example from its run.

    Attributes:
        circuit: the circuit to export.
        prompt: the first clean prompt; empty if unknown.
        tokens: names of its tokens: roles such as `S2`, or ids.
    """

    circuit: Circuit
    prompt: str = ""
    tokens: tuple[str, ...] = ()


def read_source(path: str | Path, edges: int | None = None, every_edge: bool = False) -> Source:
    """Reads a circuit to export.

    Args:
        path: a run directory, a circuit (node-link or EAP-IG's JSON), or a safetensors file of edge scores or of EAP-IG.
        edges: take this number of strongest edges instead, by the scores; see `EdgeScores.top`. Scores over places choose
            edges at places. A circuit's file has scores of its own edges only, a file of EAP-IG of all edges.
        every_edge: give the circuit the scores of all edges of the model, if they are known; a circuit over places loses its
            places, with a warning.

    Raises:
        InputError: the message says what is missing; or there are fewer scores than `edges`.
    """
    path = Path(path)
    check_source(path)
    if path.is_dir():
        return _from_run(path, edges, every_edge)
    if path.suffix.lower() == ".safetensors":
        if eap_ig.is_eap_ig_tensors(path):
            return Source(_of_eap_ig(eap_ig.read_eap_ig_tensors(path), edges, path))
        return Source(_from_scores(EdgeScores.load(path), edges, every_edge, path))
    return Source(_from_json(path, edges))


def _from_json(path: Path, edges: int | None) -> Circuit:
    data = read_json(path, (*eap_ig.FIELDS, *circuit_file.FIELDS))
    if isinstance(data, dict) and "cfg" in data:
        return _of_eap_ig(eap_ig.from_plain(data, path), edges, path)
    return _part(Circuit.from_indices(**circuit_file.from_plain(data, path)), edges, path)


def _of_eap_ig(circuit: Circuit, edges: int | None, path: Path) -> Circuit:
    """The edges of its `in_graph`, or the strongest ones. EAP-IG writes a score for every edge, also if it is 0."""
    if edges is None:
        return circuit
    if circuit.scores is None:
        raise InputError(f"{path} has no score other than 0, so --edges cannot be used")
    known = int((circuit.scores.nan_to_num() != 0).sum())
    chosen = _scores(circuit, circuit.graph.edge_mask).top(edges)
    if edges > known:
        warnings.warn(
            f"{path}: only {known} edges have a score other than 0; the rest of the {edges} were taken in the order of the graph",
            ContentWarning,
            stacklevel=4,
        )
    return chosen


def _part(circuit: Circuit, edges: int | None, path: Path) -> Circuit:
    """A circuit, or the strongest of its own edges: other edges have no scores."""
    if edges is None:
        return circuit
    if circuit.scores is None:
        raise InputError(f"{path} holds a circuit without scores, so --edges cannot be used")
    known = circuit.mask & ~circuit.scores.isnan()
    if edges >= int(known.sum()):
        raise InputError(
            f"{path} holds a circuit and the scores of {int(known.sum())} of its edges; --edges {edges} needs more: give "
            "a run with scores, scores.safetensors, or fewer edges"
        )
    return _scores(circuit, known).top(edges)


def _scores(circuit: Circuit, known: Tensor) -> EdgeScores:
    """A circuit's scores, as scores of the edges that have one; the number of prompts is not known."""
    assert circuit.scores is not None
    values = circuit.scores.nan_to_num(nan=0.0) * known
    stderr = torch.full_like(values, torch.nan) if circuit.stderr is None else circuit.stderr
    return EdgeScores(circuit.graph, values, stderr, 1, circuit.provenance, kept=known)


def _from_scores(scores: EdgeScores, edges: int | None, every_edge: bool, path: Path) -> Circuit:
    if edges is None and every_edge:
        return Circuit(scores.graph, Circuit.empty(scores.graph).mask, scores.values, scores.stderr, scores.provenance)
    if edges is None:
        raise InputError(f"{path} holds scores and no circuit; choose one with --edges N, the N strongest edges")
    circuit = scores.top(edges, places=scores.placed is not None)
    return _with_every_score(circuit, scores) if every_edge else circuit


def _with_every_score(circuit: Circuit, scores: EdgeScores) -> Circuit:
    """The circuit with the scores of all edges, without places."""
    circuit = collapsed(circuit, "a file with the scores of all edges")
    return replace(circuit, scores=scores.values, stderr=None) if scores.graph == circuit.graph else circuit


def _from_run(path: Path, edges: int | None, every_edge: bool) -> Source:
    files = {name: path / name for name in ("circuit.json", "scores.safetensors", "pairs.jsonl")}
    has_circuit, has_scores = files["circuit.json"].is_file(), files["scores.safetensors"].is_file()
    if has_circuit and (edges is None or not has_scores):
        circuit = _part(Circuit.from_json(files["circuit.json"]), edges, path)
        if every_edge and has_scores:
            circuit = _with_every_score(circuit, EdgeScores.load(files["scores.safetensors"]))
    elif has_scores:
        circuit = _from_scores(EdgeScores.load(files["scores.safetensors"]), edges, every_edge, path)
    else:
        raise InputError(f"{path} holds no circuit and no scores")
    prompt, tokens = example_prompt(files["pairs.jsonl"])
    return Source(circuit, prompt, tokens)


def example_prompt(path: Path) -> tuple[str, tuple[str, ...]]:
    """The first clean prompt, and its tokens: by role if they have one, else by id."""
    if not path.is_file():
        return "", ()
    pair = next(iter(PromptPairs.from_jsonl(path)))
    roles = {index: name for name, index in pair.roles.items() if isinstance(index, int)}
    return pair.clean_text or "", tuple(roles.get(i, str(token)) for i, token in enumerate(pair.clean))
