"""What an export begins with: a run directory, a circuit, scores, or a file of EAP-IG."""

from dataclasses import dataclass, replace
from pathlib import Path

from circuits.circuit import Circuit
from circuits.errors import InputError
from circuits.export import eap_ig, node_link
from circuits.pairs import PromptPairs
from circuits.run_files import check_files, read_run_file
from circuits.scores import EdgeScores
from circuits.untrusted import read_json


@dataclass(frozen=True, eq=False)
class Source:
    """A circuit, and what a run knows besides.

    Attributes:
        circuit: what is exported.
        prompt: the first clean prompt; empty if unknown.
        tokens: what stands for its tokens: roles such as `S2`, or ids.
    """

    circuit: Circuit
    prompt: str = ""
    tokens: tuple[str, ...] = ()


def read_source(path: str | Path, edges: int | None = None, every_edge: bool = False) -> Source:
    """Reads what is to be exported.

    Args:
        path: a run directory, a circuit (node-link or EAP-IG's JSON), or a safetensors file of edge scores or of EAP-IG.
        edges: choose the circuit of so many strongest edges instead, from the scores.
        every_edge: give the circuit the scores of all edges of the model, where they are known.

    Raises:
        InputError: nothing of the kind is there; with what is missing.
    """
    path = Path(path)
    if path.is_dir():
        return _from_run(path, edges, every_edge)
    if not path.is_file():
        raise InputError(f"there is no run directory or file {path}")
    if path.suffix.lower() == ".safetensors":
        if eap_ig.is_eap_ig_tensors(path):
            return Source(_no_choice(eap_ig.read_eap_ig_tensors(path), edges, path))
        return Source(_from_scores(EdgeScores.load(path), edges, every_edge, path))
    return Source(_no_choice(_from_json(path), edges, path))


def _no_choice(circuit: Circuit, edges: int | None, path: Path) -> Circuit:
    if edges is not None:
        raise InputError(f"{path} holds a circuit; --edges chooses from scores, so give a run or scores.safetensors")
    return circuit


def _from_json(path: Path) -> Circuit:
    data = read_json(path, (*eap_ig.FIELDS, *node_link.FIELDS))
    read = eap_ig.from_plain if isinstance(data, dict) and "cfg" in data else node_link.from_plain
    return read(data, path)


def _from_scores(scores: EdgeScores, edges: int | None, every_edge: bool, path: Path) -> Circuit:
    if edges is None and every_edge:
        return Circuit(scores.graph, Circuit.empty(scores.graph).mask, scores.values, scores.stderr, scores.provenance)
    if edges is None:
        raise InputError(f"{path} holds scores and no circuit; choose one with --edges N, the N strongest edges")
    return scores.top(edges)


def _from_run(path: Path, edges: int | None, every_edge: bool) -> Source:
    files = {name: path / name for name in ("circuit.json", "scores.safetensors", "pairs.jsonl")}
    check_files(path, read_run_file(path))
    has_circuit, has_scores = files["circuit.json"].is_file(), files["scores.safetensors"].is_file()
    if has_circuit and edges is None:
        circuit = Circuit.from_json(files["circuit.json"])
        if every_edge and has_scores:
            scores = EdgeScores.load(files["scores.safetensors"])
            if scores.graph == circuit.graph:
                circuit = replace(circuit, scores=scores.values)
    elif has_scores:
        circuit = _from_scores(EdgeScores.load(files["scores.safetensors"]), edges, every_edge, path)
    else:
        raise InputError(
            f"{path} holds no {'scores of edges to choose from' if has_circuit else 'circuit and no scores'}"
        )
    prompt, tokens = _example(files["pairs.jsonl"])
    return Source(circuit, prompt, tokens)


def _example(path: Path) -> tuple[str, tuple[str, ...]]:
    """The first clean prompt, and its tokens: by role where they have one, else by id."""
    if not path.is_file():
        return "", ()
    pair = next(iter(PromptPairs.from_jsonl(path)))
    roles = {index: name for name, index in pair.roles.items()}
    return pair.clean_text or "", tuple(roles.get(i, str(token)) for i, token in enumerate(pair.clean))
