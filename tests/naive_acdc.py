"""ACDC as one would write it down first: names, loops, and one full ablated forward pass a test. The oracle of the fast one."""

import pytest
import torch

from circuits.engine.ablate import ablated_logits
from circuits.engine.hooks import inference_state
from circuits.question.question import Question


def naive_acdc(model, pairs, threshold, metric, ablation="interchange", absolute=False, reader_tests=True, **options):
    """(kept edges, steps, loss at the end); options: start_layer, start (edges), order (edge -> score)."""
    graph = model.graph
    kept = set(options.get("start", graph.edges))
    steps = []
    question = Question.ask(model, pairs, metric, ablation)
    (batch,) = question.batches(share_prefix=False)
    replacement = question.replacement(batch.suffix, question.clean_run(batch.suffix)[1])

    def loss(edges):
        with inference_state(model.bridge):
            keep = as_mask(graph, edges)
            logits = ablated_logits(model.architecture, batch.suffix, replacement, keep)
        return -question.metric.sign * float(question.metric(logits, batch.targets).mean())

    def into(reader):
        edges = [f"{writer}->{reader}" for writer in reversed(graph.writers) if f"{writer}->{reader}" in kept]
        return sorted(edges, key=lambda edge: abs(options["order"][edge])) if "order" in options else edges

    def nodes_of(reader):
        """The nodes that compute something else when this reader does: under a common post-norm, all heads of the layer."""
        node = graph.reader_nodes[graph.reader_index(reader)]
        if node.part in "qkv" and not model.architecture.blocks[0].linear_heads:
            return {f"a{node.layer}.h{head}" for head in range(graph.n_heads)}
        return set(graph.nodes_fed_by(node) or ("logits",))

    def live():
        """Nodes from which kept edges lead to the logits."""
        alive, grown = {"logits"}, True
        while grown:
            grown = False
            for edge in kept:
                writer, reader = edge.split("->")
                if writer not in alive and alive & nodes_of(reader):
                    alive.add(writer)
                    grown = True
        return alive

    current = loss(kept)

    def test(writer, reader, edges):
        nonlocal current
        new = loss(kept - edges)
        change = new - current
        stays = not (abs(change) if absolute else change) < threshold
        steps.append((writer, reader, change, stays))
        if not stays:
            kept.difference_update(edges)
            current = new
        return stays

    def test_edges(readers):
        for reader in readers:
            for edge in into(reader):
                test(edge.split("->")[0], reader, {edge})

    test_edges(["logits"])
    for layer in range(graph.n_layers - 1, options.get("start_layer", 0) - 1, -1):
        if f"m{layer}" in live():
            test_edges([f"m{layer}"])
        alive, readers = live(), []
        for part in "vkq":
            here = [r for r in graph.reader_nodes if r.layer == layer and r.part == part]
            readers += [r.name for r in reversed(here) if into(r.name) and alive & nodes_of(r.name)]
        if reader_tests:
            readers = [reader for reader in readers if test(None, reader, set(into(reader)))]
        test_edges(readers)
    alive = live()
    for edge in list(kept):
        if not alive & nodes_of(edge.split("->")[1]):
            kept.discard(edge)
    return kept, steps, loss(kept)


def as_mask(graph, edges):
    return graph.mask_of(sorted(edges)) if edges else torch.zeros_like(graph.edge_mask)


def check_same(circuit, steps, twin):
    """The search tested the same edges with the same results, and kept the same circuit."""
    kept, wanted, final = twin
    assert [step[:2] + step[3:] for step in steps] == [step[:2] + step[3:] for step in wanted]
    assert [step[2] for step in steps] == pytest.approx([step[2] for step in wanted], abs=1e-5)
    assert torch.equal(circuit.mask, as_mask(circuit.graph, kept))
    assert circuit.provenance["search"]["final_loss"] == pytest.approx(final, abs=1e-5)
