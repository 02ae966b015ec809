import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import Graph, InputError
from circuits.graph.paths import live_nodes

KNOWN = {
    "gpt2-small": (Graph(12, 12, 12, (True,) * 12), 32_491),
    "pythia-160m": (Graph(12, 12, 12, (True,) * 12, parallel=True), 32_347),
    "smollm2-135m": (Graph(30, 9, 3, (True,) * 30), 70_651),
    "qwen2.5-0.5b": (Graph(24, 14, 2, (True,) * 24), 79_813),
    "llama-3.1-8b": (Graph(32, 32, 8, (True,) * 32), 805_681),
}


@st.composite
def shapes(draw):
    """Arguments of a Graph; built in the tests, because runtime type checks draw random numbers."""
    layers, kv, group = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    mlps = draw(st.lists(st.booleans(), min_size=layers, max_size=layers))
    return layers, kv * group, kv, tuple(mlps), draw(st.booleans())


@pytest.mark.parametrize("name", KNOWN)
def test_edge_counts_of_known_models(name):
    graph, n_edges = KNOWN[name]
    assert graph.n_edges == n_edges == int(graph.edge_mask.sum())


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_edge_count_is_the_formula(layers, kv, group, parallel):
    heads = kv * group
    s = layers + (heads + 1) * layers * (layers - 1) // 2
    formula = (heads + 2 * kv + 1) * s + (0 if parallel else layers * heads) + 1 + layers * (heads + 1)
    assert Graph(layers, heads, kv, (True,) * layers, parallel).n_edges == formula


@given(shapes())
def test_edges_are_exactly_the_pairs_in_which_the_writer_comes_before_the_reader(shape):
    """A naive enumeration from the meaning of the names."""

    graph = Graph(*shape)

    def time(node, part):
        if node == "input":
            return (-1, 0)
        if node == "logits":
            return (graph.n_layers, 0)
        layer = int(node[1:].split(".")[0])
        if part == "write":
            return (layer, 2)
        return (layer, 0 if node[0] == "a" or graph.parallel else 3)

    def before(writer, reader):
        written, read = time(writer, "write"), time(reader, "read")
        if writer[0] == "m" and reader[0] == "m":
            return written[0] < read[0]
        return written < read

    expected = [
        f"{w}->{r}" for w in graph.writers for r in graph.readers if before(w, r.split("<")[0])
    ]  # fmt: skip
    assert list(graph.edges) == expected


@given(shapes())
def test_names_and_positions_round_trip(shape):
    graph = Graph(*shape)
    for i, name in enumerate(graph.writers):
        assert graph.writer_index(name) == i
    for i, name in enumerate(graph.readers):
        assert graph.reader_index(name) == i
    assert torch.equal(graph.mask_of(graph.edges), graph.edge_mask)
    for edge in graph.edges[:: max(1, len(graph.edges) // 20)]:
        w, r = graph.edge_index(edge)
        assert f"{graph.writers[w]}->{graph.readers[r]}" == edge
    assert Graph.from_dict(graph.to_dict()) == graph


@given(shapes())
def test_slices_point_at_the_right_names(shape):
    graph = Graph(*shape)
    kv = "kv" if graph.grouped else "h"
    for layer in range(graph.n_layers):
        assert graph.writers[graph.head_writers(layer)] == tuple(f"a{layer}.h{h}" for h in range(graph.n_heads))
        assert graph.readers[graph.readers_of(layer, "q")] == tuple(f"a{layer}.h{h}<q>" for h in range(graph.n_heads))
        for part in ("k", "v"):
            names = tuple(f"a{layer}.{kv}{h}<{part}>" for h in range(graph.n_kv_heads))
            assert graph.readers[graph.readers_of(layer, part)] == names
        mlp = (f"m{layer}",) if graph.mlps[layer] else ()
        assert graph.readers[graph.readers_of(layer, "mlp")] == mlp
        if mlp:
            assert graph.writers[graph.mlp_writer(layer)] == f"m{layer}"
    assert graph.readers[graph.readers_of(0, "logits")] == ("logits",)


def test_a_shared_key_head_feeds_its_whole_group():
    graph = Graph(1, 6, 2, (True,))
    reader = graph.reader_nodes[graph.reader_index("a0.kv1<k>")]
    assert graph.nodes_fed_by(reader) == ("a0.h3", "a0.h4", "a0.h5")


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ("a0.h9->logits", "no writer 'a0.h9'"),
        ("input->a0.h0<k>", "nearest: .*a0.kv0<k>"),
        ("m1->m0", "does not come before"),
        ("logits", "not an edge"),
    ],
)
def test_unknown_edges_are_refused_with_what_to_write_instead(edge, message):
    with pytest.raises(InputError, match=message):
        Graph(2, 4, 2, (True, True)).edge_index(edge)


@pytest.mark.parametrize(
    "data", [None, {}, {"n_layers": 1}, {"n_layers": True, "n_heads": 1, "n_kv_heads": 1, "mlps": [True], "parallel": False},
             {"n_layers": 2000, "n_heads": 500, "n_kv_heads": 500, "mlps": [True] * 2000, "parallel": False},
             {"n_layers": 10**9, "n_heads": 1, "n_kv_heads": 1, "mlps": [], "parallel": False},
             {"n_layers": 1, "n_heads": 3, "n_kv_heads": 2, "mlps": [True], "parallel": False},
             {"n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "mlps": "x", "parallel": False},
             {"n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "mlps": [True], "parallel": 0}],
)  # fmt: skip
def test_broken_descriptions_are_refused(data):
    with pytest.raises(InputError):
        Graph.from_dict(data)


def naive_live(graph, keep, coupled):
    """Names, edge by edge, until nothing is added."""
    live, edges = {"logits"}, [(graph.writer_names[w], graph.reader_nodes[r]) for w, r in keep.nonzero().tolist()]
    while True:
        before = set(live)
        for writer, reader in edges:
            if set(graph.outputs_of(reader, coupled)) & live:
                live.add(writer)
        if coupled:
            for layer in range(graph.n_layers):
                heads = set(graph.writer_names[graph.head_writers(layer)])
                live |= heads if heads & live else set()
        if live == before:
            return live


@pytest.mark.parametrize(
    "graph", [Graph(3, 4, 2, (True, False, True)), Graph(2, 3, 3, (True, True), True), Graph(1, 1, 1, (False,))]
)
@pytest.mark.parametrize("coupled", [False, True])
def test_live_nodes_are_those_from_which_kept_edges_lead_to_the_logits(graph, coupled):
    for seed in range(12):
        drawn = torch.rand(graph.edge_mask.shape, generator=torch.Generator().manual_seed(seed))
        keep = (drawn < (0.02, 0.1, 0.3, 0.9)[seed % 4]) & graph.edge_mask
        assert live_nodes(graph, keep, coupled) == naive_live(graph, keep, coupled)
