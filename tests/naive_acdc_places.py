"""ACDC over places as one would write it down first: names, loops, and one full pass for each test."""

import torch

from circuits.engine.ablate_places import ablated_at_places
from circuits.engine.hooks import inference_state
from circuits.graph.places import Places, over
from circuits.question.question import Question


def naive_acdc_places(
    model,
    pairs,
    threshold,
    span_of,
    metric="logit_difference",
    ablation="interchange",
    reader_tests=True,
    destinations=False,
    start=None,
):
    """(kept edges, steps, loss at the end); `span_of`: the span of every token of every pair, by number."""
    spans = pairs.spans
    graph, places = model.graph, over(model.graph, Places(spans, destinations, ("end",)))
    kept = set(places.edges if start is None else start)
    steps = []
    question = Question.ask(model, pairs, metric, ablation)
    (batch,) = question.batches(share_prefix=False)
    replacement = question.replacement(batch.suffix, question.clean_run(batch.suffix)[1])

    def loss(edges):
        keep = places.mask_of(sorted(edges)) if edges else torch.zeros_like(places.edge_mask)
        with inference_state(model.bridge):
            logits = ablated_at_places(
                model.architecture, batch.suffix, replacement, places, keep, torch.tensor(span_of)
            )
        return -question.metric.sign * float(question.metric(logits, batch.targets).mean())

    def outputs(reader, span):
        """(node, span) of everything that changes when a reader reads something else at a span (`S=>end`: for these queries)."""
        if reader.part == "logits":
            return {("logits", "end")}
        span, arrow, query = span.partition("=>")
        later = spans[spans.index(span) :] if reader.part in "kv" else (span,)
        nodes = graph.nodes_fed_by(reader)
        if reader.part in "qkv" and not model.architecture.blocks[0].linear_heads:
            nodes = [f"a{reader.layer}.h{head}" for head in range(graph.n_heads)]
        return {(node, at) for node in nodes for at in ([query] if arrow else later)}

    def where(reader):
        """The places of a reader, from the last."""
        if not destinations or reader.part not in ("k", "v"):
            return spans[::-1]
        return [f"{s}=>{q}" for i, s in enumerate(spans) for q in spans[i:]][::-1]

    def live():
        alive, grown = {("logits", "end")}, True
        while grown:
            grown = False
            for edge in kept:
                writer, _, rest = edge.partition("->")
                name, _, span = rest.partition("@")
                if (writer, span.split("=>")[0]) not in alive and alive & outputs(readers[name], span):
                    alive.add((writer, span.split("=>")[0]))
                    grown = True
        return alive

    readers = {reader.name: reader for reader in graph.reader_nodes}
    current = loss(kept)

    def test(writer, reader, edges):
        nonlocal current
        change = loss(kept - edges) - current
        stays = not change < threshold
        steps.append((writer, reader, change, stays))
        if not stays:
            kept.difference_update(edges)
            current += change
        return stays

    def into(name, span):
        edges = [f"{writer}->{name}@{span}" for writer in reversed(graph.writers)]
        return [edge for edge in edges if edge in kept]

    def test_edges(visited):
        for name, span in visited:
            for edge in into(name, span):
                test(edge.split("->")[0], f"{name}@{span}", {edge})

    test_edges([("logits", "end")])
    for layer in range(graph.n_layers - 1, -1, -1):
        alive = live()
        test_edges([(f"m{layer}", span) for span in reversed(spans) if (f"m{layer}", span) in alive])
        alive, visited = live(), []
        for part in "vkq":
            for reader in reversed([r for r in graph.reader_nodes if (r.layer, r.part) == (layer, part)]):
                for span in where(reader):
                    if into(reader.name, span) and alive & outputs(reader, span):
                        visited.append((reader.name, span))
        if reader_tests:
            visited = [(name, span) for name, span in visited if test(None, f"{name}@{span}", set(into(name, span)))]
        test_edges(visited)
    alive = live()
    for edge in list(kept):
        name, _, span = edge.partition("->")[2].partition("@")
        if not alive & outputs(readers[name], span):
            kept.discard(edge)
    return kept, steps, loss(kept)
