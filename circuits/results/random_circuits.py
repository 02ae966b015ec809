"""Random circuits, for comparison with a circuit.

| kind | |
|---|---|
| `connected` | the same number of any edges, each on a path from `input` to `logits` |
| `same_layers` | the circuit with the heads of each layer exchanged at random: equal size, connected, between the same layers, of the same shape |

The second is the harder comparison: such circuits share the layers and the MLPs.

Comparing a circuit with itself would be a tie, and a random circuit drawn twice would count twice. So all random circuits differ
from the circuit and from each other: after pruning, if circuits are kept; as sets of edges, if they are ablated. For some circuits there are few or none: of the whole graph, of
`input->logits`, and of the same layers if the circuit has no heads.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.graph.paths import readers_by_output
from circuits.plain_torch import plain_torch
from circuits.results.circuit import Circuit

KINDS = ("connected", "same_layers")
_DRAWS_IN_VAIN = 200
"""After this many consecutive draws without a new circuit, no more are assumed to exist."""
_ATTEMPTS = 20
INFLATION_ATTEMPTS = 50


def random_circuits(circuit: Circuit, n: int, kind: str = "connected", seed: int = 0) -> list[Circuit]:
    """Different random circuits of the size of a circuit.

    Args:
        circuit: the circuit to compare.
        n: number of random circuits.
        kind: see the module docstring.
        seed: random seed.

    Raises:
        InputError: an unknown kind, a negative number, or fewer such circuits exist.
    """
    rivals = distinct_rivals(circuit, n, kind, seed)
    if len(rivals) < n:
        raise InputError(too_few(len(rivals), n, len(circuit), kind))
    return rivals


def distinct_rivals(
    circuit: Circuit, n: int, kind: str = "connected", seed: int = 0, ablated: bool = False
) -> list[Circuit]:
    """`random_circuits`, or fewer if fewer exist; to be ablated instead of kept: dead ends count then."""
    if kind not in KINDS:
        raise InputError(f"random circuits must be one of {', '.join(KINDS)}, got {kind!r}")
    if n < 0:
        raise InputError(f"the number of random circuits must be at least 0, got {n}")
    generator = torch.Generator().manual_seed(seed)
    known = circuit if ablated else circuit.pruned()
    seen, rivals, in_vain, most = {known}, [], 0, _most_rivals(circuit, n, kind)
    while len(rivals) < most and in_vain < _DRAWS_IN_VAIN:
        if kind == "same_layers":
            drawn = exchanged_heads(circuit, generator)
        else:
            drawn = random_circuit(circuit.graph, len(circuit), generator)
        known = drawn if ablated else drawn.pruned()
        if known in seen:
            in_vain += 1
            continue
        seen.add(known)
        rivals.append(drawn)
        in_vain = 0
    return rivals


def _most_rivals(circuit: Circuit, n: int, kind: str) -> int:
    """Upper bound of the number of random circuits, known without drawing."""
    graph = circuit.graph
    if not 0 < len(circuit) < graph.n_edges:
        return 0
    if kind == "connected" and len(circuit) == 1:  # `input->logits` alone connects the two
        return min(n, int(circuit.pruned() != circuit))
    if kind == "same_layers":
        ends = ((graph.writer_nodes[w].head, graph.reader_nodes[r].head) for w, r in circuit.mask.nonzero().tolist())
        return 0 if all(pair == (None, None) for pair in ends) else n
    return n


def too_few(n: int, requested: int, n_edges: int, kind: str) -> str:
    """The message if fewer random circuits exist than requested."""
    size = f"of {n_edges} edge{'s' if n_edges > 1 else ''}"
    like = size if kind == "connected" else "with the heads of its layers exchanged"
    there = f"only {n} of {requested}" if n else f"none of {requested}"
    return f"{there} random circuits {like} could be drawn that differ from the circuit and from each other"


def exchanged_heads(circuit: Circuit, generator: torch.Generator) -> Circuit:
    """The circuit with the heads of each layer exchanged at random; heads that share keys and values stay together."""
    graph = circuit.graph
    heads = {layer: _exchange(graph, generator) for layer in range(graph.n_layers)}
    to_writer = torch.arange(graph.n_writers)
    for i, writer in enumerate(graph.writer_nodes):
        if writer.head is not None:
            to_writer[i] = graph.writer_index(f"a{writer.layer}.h{int(heads[writer.layer][writer.head])}")
    numbers = {(reader.part, reader.layer, reader.head, reader.place): r for r, reader in enumerate(graph.reader_nodes)}
    to_reader = torch.arange(graph.n_readers)
    for i, reader in enumerate(graph.reader_nodes):
        if reader.head is not None:
            shared = reader.part in ("k", "v") and graph.grouped
            moved = heads[reader.layer]
            head = int(moved[reader.head * graph.group_size]) // graph.group_size if shared else int(moved[reader.head])
            to_reader[i] = numbers[reader.part, reader.layer, head, reader.place]
    writers, readers = circuit.mask.nonzero(as_tuple=True)
    return Circuit(graph, graph.mask_at(torch.stack([to_writer[writers], to_reader[readers]], 1)))


def _exchange(graph: Graph, generator: torch.Generator) -> Int[Tensor, " head"]:
    """The new place of each head of a layer: groups are permuted, and the heads within a group."""
    groups = torch.randperm(graph.n_kv_heads, generator=generator)
    within = torch.stack([torch.randperm(graph.group_size, generator=generator) for _ in range(graph.n_kv_heads)])
    return (groups[:, None] * graph.group_size + within).flatten()


@plain_torch
def random_circuit(graph: Graph, n_edges: int, generator: torch.Generator) -> Circuit:
    """A random connected circuit: every edge is on a path from `input` to `logits`.

    It consists of random walks backwards from `logits`; the last few edges, for which a walk is too long, join its nodes.

    Args:
        graph: the graph.
        n_edges: number of edges.
        generator: source of randomness.
    """
    if not 0 <= n_edges <= graph.n_edges:
        raise InputError(f"a circuit of {n_edges} edges cannot be drawn from a graph of {graph.n_edges}")
    for _ in range(_ATTEMPTS):
        circuit = Circuit(graph, _drawn(graph, n_edges, generator))
        # Some draws cannot be completed: with `input->logits`, no second edge makes a circuit.
        if circuit.pruned() == circuit:
            break
    return circuit


def _drawn(graph: Graph, n_edges: int, generator: torch.Generator) -> Bool[Tensor, "writer reader"]:
    readers = readers_by_output(graph)

    def pick(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    def walk() -> set[tuple[int, int]]:
        output, edges, w = "logits", set(), -1
        while w != 0:  # the input
            r = readers[output][pick(len(readers[output]))]
            w = pick(graph.reader_nodes[r].n_writers)
            edges.add((w, r))
            output = graph.output_read(w, graph.reader_nodes[r])
        return edges

    chosen: set[tuple[int, int]] = set()
    failures = 0
    while len(chosen) < n_edges and failures < 50:
        added = walk() - chosen
        if added and len(chosen) + len(added) <= n_edges:
            chosen |= added
            failures = 0
        else:
            failures += 1
    mask = graph.mask_at(torch.tensor(sorted(chosen), dtype=torch.long).reshape(-1, 2))
    return _filled_up(graph, mask, n_edges, generator)


def _filled_up(graph: Graph, mask: Tensor, n_edges: int, generator: torch.Generator) -> Tensor:
    """Adds random edges between nodes of the circuit until there are `n_edges`; other edges if those run out."""
    for anything in (False, True):
        missing = n_edges - int(mask.sum())
        if missing <= 0:
            break
        inside = _between_outputs(graph, mask)
        candidates = (graph.edge_mask & ~mask & (inside | anything)).nonzero()
        order = torch.randperm(len(candidates), generator=generator)[:missing]
        mask = mask | graph.mask_at(candidates[order])
    return mask


def _between_outputs(graph: Graph, mask: Tensor) -> Bool[Tensor, "writer reader"]:
    """The edges between outputs that a circuit has, and into `logits`."""
    circuit = Circuit(graph, mask)
    outputs = set(circuit.outputs) | {"logits", *graph.outputs[: graph.n_inputs]}
    inside = torch.zeros_like(mask)
    for r, reader in enumerate(graph.reader_nodes):
        if any(output in outputs for output in graph.outputs_of(reader)):
            inside[: reader.n_writers, r] = torch.tensor(
                [graph.output_read(w, reader) in outputs for w in range(reader.n_writers)]
            )
    return inside


def inflated(circuit: Circuit, n: int, seed: int = 0) -> list[tuple[Circuit, Circuit]]:
    """n pairs of circuits: the circuit with a random path added, and the same without a random edge of that path.

    There are fewer pairs if the graph has no other paths.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    pairs = []
    for _ in range(n):
        for _ in range(INFLATION_ATTEMPTS):
            length = int(torch.randint(2, 2 + circuit.graph.n_layers, (1,), generator=generator))
            path = random_circuit(circuit.graph, min(length, circuit.graph.n_edges), generator)
            added = (path.mask & ~circuit.mask).nonzero()
            if len(added):
                larger = Circuit(circuit.graph, circuit.mask | path.mask)
                w, r = added[int(torch.randint(len(added), (1,), generator=generator))].tolist()
                cut = larger.mask.clone()
                cut[w, r] = False
                pairs.append((larger, Circuit(circuit.graph, cut)))
                break
    return pairs
