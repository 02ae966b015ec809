"""Interventions that a description implies: run, and reported as held, failed or undecided.

*A mover copies what it sees at the answer.* Its value at the answer's token is replaced by the value that the same head has at the
answer's token of the next pair, at the answer position only:

    z ← z + Σ_j attention(answer position, j) · (v_j(other pair) - v_j)

If the head moves the answer, the metric falls (rises for a negative mover). The control replaces its value at the wrong answer's token
by that of the next pair, and should matter less than half as much.

*A node feeds a reader.* Path patching of the direct path, with MLPs frozen, must change the metric with the sign of the edge's score.

A statement holds if Student's one-sided test over the prompts has p <= 0.05, which a true null passes with a chance of 5% on normal
effects; with many statements, some hold by chance. It fails if the opposite effect is significant, or the control is too large.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.description import DescriptionTest
from circuits.descriptions.kind_scores import answer_places
from circuits.engine.final_writes import FinalWrites, final_writes
from circuits.engine.hooks import TokenBatch, inference_state
from circuits.graph.nodes import find_site
from circuits.methods.path_patching import path_patching_of
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit

LEVEL = 0.05
CONTROL = 0.5
"""A control must have less than this share of the effect."""
FEWEST = 3
"""Prompts without which nothing is tested."""


CleanRuns = Sequence[tuple[Batch, FinalWrites]]


def clean_runs(question: Question, heads: Sequence[str]) -> CleanRuns:
    """The clean run of each batch, with attention and values of these heads' layers."""
    model = question.model
    layers = {find_site(model.graph, head, model.widths).layer for head in heads}
    with inference_state(model.bridge):
        return [
            (batch, final_writes(model.architecture, batch.suffix.clean_tokens, sources=layers))
            for batch in question.batches()
        ]


def mover_test(question: Question, head: str, sign: int, runs: CleanRuns | None = None) -> DescriptionTest | None:
    """Tests that a head moves the answer (sign 1) or suppresses it (-1); None if too few prompts hold their answer."""
    pairs = question.pairs
    places, wrong = answer_places(pairs), answer_places(pairs, wrong=True)
    if len(pairs) < FEWEST or not all(places):
        return None
    runs = runs or clean_runs(question, [head])
    effects = value_effects(question, head, places, runs)
    control = float(value_effects(question, head, wrong, runs).mean()) * sign if all(wrong) else None
    verb = "lowers" if sign > 0 else "raises"
    statement = f"another answer's value at the answer's token {verb} the metric"
    statement += "" if control is None else ", at the wrong answer's token it matters less than half as much"
    return result_of(head, statement, effects * sign, control)


def value_effects(
    question: Question, head: str, places: Sequence[Sequence[int]], runs: CleanRuns
) -> Float[Tensor, " prompt"]:
    """metric(clean) - metric(clean, the head's values at these tokens from the next pair's first such token), signed."""
    model, pairs = question.model, question.pairs
    site = find_site(model.graph, head, model.widths)
    layer, index, group = site.layer, site.index, model.graph.group_size
    assert index is not None
    values: dict[int, Tensor] = {}
    for batch, end in runs:
        for row, number in enumerate(batch.index.tolist()):
            values[number] = end.values[layer][row, :, index // group]
    effects = torch.zeros(len(pairs), dtype=torch.float64)
    with inference_state(model.bridge):
        for batch, end in runs:
            change = torch.zeros_like(end.z[layer][:, index])
            for row, number in enumerate(batch.index.tolist()):
                following = (number + 1) % len(pairs)
                for place in places[number]:
                    other = values[following][places[following][0]]
                    change[row] += end.pattern[layer][row, index, place].to(change) * (other - values[number][place])
            tokens = batch.suffix.clean_tokens
            hooks = [(model.architecture.blocks[layer].z, lambda z, c=change, t=tokens: _added(z, c, t, index))]
            patched = final_writes(model.architecture, tokens, hooks)
            drop = question.metric(end.logits, batch.targets) - question.metric(patched.logits, batch.targets)
            effects[batch.index] = drop.to("cpu", torch.float64)
    return effects * question.metric.sign


def _added(z: Tensor, change: Tensor, tokens: TokenBatch, head: int) -> Tensor:
    z = z.clone()
    z[torch.arange(len(z), device=z.device), tokens.position.to(z.device), head] += change
    return z


def edge_tests(question: Question, circuit: Circuit, labels: dict[str, str], most: int) -> list[DescriptionTest]:
    """Tests of the strongest edges from labelled nodes into queries, keys and values, one per writer."""
    graph = circuit.graph
    entries = [
        entry
        for entry in circuit.entries()
        if entry[2] is not None and graph.reader_nodes[entry[1]].part in ("q", "k", "v")
    ]
    entries.sort(key=lambda entry: -abs(entry[2] or 0.0))
    tests: list[DescriptionTest] = []
    for w, r, score, _ in entries:
        writer, reader = graph.writer_names[w], graph.reader_names[r]
        if writer not in labels or any(test.node == writer for test in tests) or len(tests) == most:
            continue
        sign = 1 if (score or 0.0) >= 0 else -1
        effects = path_patching_of(question, [reader], senders=[writer]).per_prompt[0]
        what = "lowers" if sign > 0 else "raises"
        tests.append(result_of(writer, f"patching its path to {reader} {what} the metric", effects * sign, None))
    return tests


def result_of(node: str, statement: str, effects: Float[Tensor, " prompt"], control: float | None) -> DescriptionTest:
    """The result of a test, from effects that should be positive."""
    from scipy.stats import t

    n = len(effects)
    mean = float(effects.mean())
    stderr = float(effects.std()) / n**0.5 if n > 1 else float("nan")
    if n < FEWEST:
        return DescriptionTest(node, statement, mean, stderr, float("nan"), control, None)
    p = float(t.sf(mean / stderr, n - 1)) if stderr > 0 else float(mean <= 0)
    held: bool | None = True if p <= LEVEL else False if p >= 1 - LEVEL and mean < 0 else None
    if held and control is not None and abs(control) >= CONTROL * mean:
        held = False
    return DescriptionTest(node, statement, mean, stderr, p, control, held)


def whole_question(model: Model, pairs: PromptPairs) -> Question:
    """The question of the tests: interchange ablation, with all positions computed."""
    return Question.ask(model, pairs).again(whole_prompts=True)
