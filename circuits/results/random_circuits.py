"""Circuits drawn at random, for a circuit to be compared with.

| kind | |
|---|---|
| `connected` | any edges, as many, each on a path from `input` to `logits` |
| `same_layers` | the circuit itself with the heads of each layer exchanged at random: equal size, connected, between the same layers, of the same shape |

The second is the harder rival: it shares what a circuit owes to its layers and to the MLPs alone.

A circuit compared with itself would win by a tie, and a rival that is drawn twice would count twice. So all rivals differ, from the
circuit and from each other, after dead ends are pruned. Of some circuits there are few: none of the whole graph, none of
`input->logits`, none of the same layers where no head takes part.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.plain_torch import plain_torch
from circuits.results.circuit import Circuit, readers_by_node

KINDS = ("connected", "same_layers")


_DRAWS_IN_VAIN = 200
"""After so many draws in a row that bring no new rival, there are taken to be no more."""


def random_circuits(circuit: Circuit, n: int, kind: str = "connected", seed: int = 0) -> list[Circuit]:
    """Rivals of a circuit, all different.

    Args:
        circuit: what they are to be like.
        n: how many.
        kind: see the module docstring.
        seed: of the draws.

    Raises:
        InputError: no such kind, a negative number, or fewer rivals exist.
    """
    rivals = distinct_rivals(circuit, n, kind, seed)
    if len(rivals) < n:
        raise InputError(too_few(len(rivals), n, len(circuit), kind))
    return rivals


def distinct_rivals(circuit: Circuit, n: int, kind: str = "connected", seed: int = 0) -> list[Circuit]:
    """`random_circuits`, or as many of them as there are."""
    if kind not in KINDS:
        raise InputError(f"random circuits must be one of {', '.join(KINDS)}, got {kind!r}")
    if n < 0:
        raise InputError(f"the number of random circuits must be at least 0, got {n}")
    generator = torch.Generator().manual_seed(seed)
    seen, rivals, in_vain, most = {circuit.pruned()}, [], 0, _most_rivals(circuit, n, kind)
    while len(rivals) < most and in_vain < _DRAWS_IN_VAIN:
        if kind == "same_layers":
            drawn = exchanged_heads(circuit, generator)
        else:
            drawn = random_circuit(circuit.graph, len(circuit), generator)
        pruned = drawn.pruned()
        if pruned in seen:
            in_vain += 1
            continue
        seen.add(pruned)
        rivals.append(drawn)
        in_vain = 0
    return rivals


def _most_rivals(circuit: Circuit, n: int, kind: str) -> int:
    """How many of n rivals there can be at most, where that is plain without drawing any."""
    graph = circuit.graph
    if not 0 < len(circuit) < graph.n_edges:
        return 0
    if kind == "connected" and len(circuit) == 1:  # `input->logits` alone connects the two
        return min(n, int(circuit.pruned() != circuit))
    if kind == "same_layers":
        ends = ((graph.writer_nodes[w].head, graph.reader_nodes[r].head) for w, r in circuit.mask.nonzero().tolist())
        return 0 if all(pair == (None, None) for pair in ends) else n
    return n


def too_few(found: int, asked: int, n_edges: int, kind: str) -> str:
    """What to say where there are fewer rivals than were asked for."""
    like = (
        f"of {n_edges} edge{'s' if n_edges > 1 else ''}"
        if kind == "connected"
        else "with the heads of its layers exchanged"
    )
    there = f"only {found} of {asked}" if found else f"none of {asked}"
    return f"{there} random circuits {like} could be drawn that differ from the circuit and from each other"


def exchanged_heads(circuit: Circuit, generator: torch.Generator) -> Circuit:
    """The circuit with the heads of each layer exchanged at random; heads that share keys and values stay together."""
    graph = circuit.graph
    heads = {layer: _exchange(graph, generator) for layer in range(graph.n_layers)}
    writers = {name: i for i, name in enumerate(graph.writer_names)}
    readers = {name: i for i, name in enumerate(graph.reader_names)}
    to_writer = torch.arange(graph.n_writers)
    for i, writer in enumerate(graph.writer_nodes):
        if writer.head is not None:
            to_writer[i] = writers[f"a{writer.layer}.h{int(heads[writer.layer][writer.head])}"]
    to_reader = torch.arange(graph.n_readers)
    for i, reader in enumerate(graph.reader_nodes):
        if reader.head is not None:
            shared = reader.part in ("k", "v") and graph.grouped
            moved = heads[reader.layer]
            head = int(moved[reader.head * graph.group_size]) // graph.group_size if shared else int(moved[reader.head])
            to_reader[i] = readers[f"a{reader.layer}.{'kv' if shared else 'h'}{head}<{reader.part}>"]
    edges = circuit.mask.nonzero()
    mask = torch.zeros_like(circuit.mask)
    mask[to_writer[edges[:, 0]], to_reader[edges[:, 1]]] = True
    return Circuit(graph, mask)


def _exchange(graph: Graph, generator: torch.Generator) -> Int[Tensor, " head"]:
    """Where each head of a layer goes: groups are exchanged, and heads within a group."""
    groups = torch.randperm(graph.n_kv_heads, generator=generator)
    within = torch.stack([torch.randperm(graph.group_size, generator=generator) for _ in range(graph.n_kv_heads)])
    return (groups[:, None] * graph.group_size + within).flatten()


_ATTEMPTS = 20


@plain_torch
def random_circuit(graph: Graph, n_edges: int, generator: torch.Generator) -> Circuit:
    """A random connected circuit: every edge lies on a path from `input` to `logits`.

    Grown from random walks backwards from `logits`; the last few edges, where a whole walk would be too many, join nodes
    that are already there.

    Args:
        graph: where to draw from.
        n_edges: how many edges; at most the graph's.
        generator: source of randomness.
    """
    if not 0 <= n_edges <= graph.n_edges:
        raise InputError(f"a circuit of {n_edges} edges cannot be drawn from a graph of {graph.n_edges}")
    for _ in range(_ATTEMPTS):
        circuit = Circuit(graph, _drawn(graph, n_edges, generator))
        # Some beginnings cannot be completed: no second edge makes a circuit with `input->logits`.
        if circuit.pruned() == circuit:
            break
    return circuit


def _drawn(graph: Graph, n_edges: int, generator: torch.Generator) -> Bool[Tensor, "writer reader"]:
    by_node = readers_by_node(graph)

    def pick(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    def walk() -> set[tuple[int, int]]:
        node, edges = "logits", set()
        while node != "input":
            r = by_node[node][pick(len(by_node[node]))]
            w = pick(graph.reader_nodes[r].n_writers)
            edges.add((w, r))
            node = graph.writer_names[w]
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
    mask = torch.zeros_like(graph.edge_mask)
    if chosen:
        writers, readers = zip(*sorted(chosen), strict=True)
        mask[list(writers), list(readers)] = True
    return _filled_up(graph, mask, n_edges, generator)


def _filled_up(graph: Graph, mask: Tensor, n_edges: int, generator: torch.Generator) -> Tensor:
    """Adds random edges between nodes that are already on a path until there are `n_edges`; any edge if those run out."""
    for anything in (False, True):
        missing = n_edges - int(mask.sum())
        if missing <= 0:
            break
        nodes = set(Circuit(graph, mask).nodes) | {"input", "logits"}
        inside = torch.tensor([name in nodes for name in graph.writer_names])[:, None] & torch.tensor(
            [any(n in nodes for n in graph.nodes_fed_by(r) or ("logits",)) for r in graph.reader_nodes]
        )
        candidates = (graph.edge_mask & ~mask & (inside | anything)).nonzero()
        order = torch.randperm(len(candidates), generator=generator)[:missing]
        mask = mask.clone()
        mask[candidates[order, 0], candidates[order, 1]] = True
    return mask


INFLATION_ATTEMPTS = 50


def inflated(circuit: Circuit, n: int, seed: int = 0) -> list[tuple[Circuit, Circuit]]:
    """The circuit with a random path added, and the same without a random edge of what was added; n such pairs.

    Fewer, or none, where the graph has no paths beside the circuit.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    found = []
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
                found.append((larger, Circuit(circuit.graph, cut)))
                break
    return found
