"""Interventions that a description implies: run, and reported as held, failed or undecided.

*A mover copies what it sees at the answer.* Its value at the answer's token is replaced by the value that the same head has at the
answer's token of the next pair, at the answer position only:

    z ← z + Σ_j attention(answer position, j) · (v_j(other pair) - v_j)

If the head moves the answer, the metric falls (rises for a negative mover). The control does the same at the wrong answer's tokens, which
must not change the metric in this direction by half as much. (It may well change it in the other: a head that copies what it sees then
copies less of the wrong answer.)

*A wrong-answer suppressor* writes against the wrong answer that it sees. With another value there, the metric falls; the control is at
the answer's token.

*A node feeds a reader.* The reader gets the writer's corrupted value, all else stays clean (path patching of the direct path, with
MLPs frozen); the metric must change with the sign of the edge's score.

A statement holds if Student's one-sided test over the prompts has p <= 0.05, which a true null passes with a chance of 5% on normal
effects; with many statements, some hold by chance. It fails if the opposite effect is significant, or the control is too large.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.description import DescriptionTest
from circuits.descriptions.kind_scores import answer_places
from circuits.engine.final_writes import pattern_point
from circuits.engine.hooks import Hook, TokenBatch, inference_state
from circuits.engine.resume import BaseRun, resume
from circuits.graph.nodes import find_site
from circuits.methods.exact_edges import exact_edge_effects_of
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit

LEVEL = 0.05
CONTROL = 0.5
"""A control must have less than this share of the effect, in the same direction."""
FEWEST = 3
"""Prompts without which nothing is tested."""


@dataclass(frozen=True, eq=False)
class CleanRun:
    """The clean run of a batch, with what the chosen heads' layers mix.

    Attributes:
        batch: the prompts.
        base: the run, from which passes with changed heads start.
        pattern: layer -> attention from the answer position.
        values: layer -> the values that this attention mixes.
    """

    batch: Batch
    base: BaseRun
    pattern: dict[int, Float[Tensor, "batch head key"]]
    values: dict[int, Float[Tensor, "batch key kv_head d_head"]]


def clean_runs(question: Question, heads: Sequence[str]) -> Sequence[CleanRun]:
    """The clean run of each batch, with attention and values of these heads' layers."""
    model = question.model
    layers = {find_site(model.graph, head, model.widths).layer for head in heads}
    with inference_state(model.bridge):
        return [_clean_run(question, batch, layers) for batch in question.batches()]


def _clean_run(question: Question, batch: Batch, layers: Collection[int]) -> CleanRun:
    pattern: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    rows, at = torch.arange(len(batch)), batch.suffix.position.cpu()
    hooks: list[Hook] = []
    for layer in layers:
        block = question.model.architecture.blocks[layer]
        seen = pattern_point(question.model.architecture, block)
        hooks.append((seen, lambda x, layer=layer: pattern.__setitem__(layer, x[rows, :, at].detach())))
        hooks.append((block.v, lambda x, layer=layer: values.__setitem__(layer, x.detach())))
    return CleanRun(batch, question.base_run(batch, hooks), pattern, values)


def mover_test(
    question: Question, head: str, sign: int, runs: Sequence[CleanRun] | None = None
) -> DescriptionTest | None:
    """Tests that a head moves the answer (sign 1) or suppresses it (-1); None if too few prompts hold their answer."""
    return _value_test(question, head, ("the answer's token", "the wrong answer's tokens"), sign, runs)


def suppressor_test(question: Question, head: str, runs: Sequence[CleanRun] | None = None) -> DescriptionTest | None:
    """Tests that a head writes against the wrong answer; None if too few prompts hold it."""
    return _value_test(question, head, ("the wrong answer's tokens", "the answer's token"), 1, runs)


def _value_test(
    question: Question, head: str, where: tuple[str, str], sign: int, runs: Sequence[CleanRun] | None
) -> DescriptionTest | None:
    """Other values at some tokens change the metric with a sign, and at the control's tokens less than half as much that way."""
    pairs = question.pairs
    places, others = (answer_places(pairs, wrong="wrong" in tokens) for tokens in where)
    if len(pairs) < FEWEST or not all(places):
        return None
    runs = runs or clean_runs(question, [head])
    effects = value_effects(question, head, places, runs)
    control = float(value_effects(question, head, others, runs).mean()) * sign if all(others) else None
    verb = "lowers" if sign > 0 else "raises"
    statement = f"its value at {where[0]}, from another prompt, {verb} the metric"
    statement += "" if control is None else f"; at {where[1]} it {verb} it less than half as much"
    return result_of(head, statement, effects * sign, control)


def value_effects(
    question: Question, head: str, places: Sequence[Sequence[int]], runs: Sequence[CleanRun]
) -> Float[Tensor, " prompt"]:
    """metric(clean) - metric(clean, the head's values at these tokens from the next pair's first such token), signed."""
    model, pairs = question.model, question.pairs
    site = find_site(model.graph, head, model.widths)
    layer, index, group = site.layer, site.index, model.graph.group_size
    assert index is not None
    values = {
        number: run.values[layer][row, :, index // group]
        for run in runs for row, number in enumerate(run.batch.index.tolist())
    }  # fmt: skip
    effects = torch.zeros(len(pairs), dtype=torch.float64)
    with inference_state(model.bridge):
        for run in runs:
            change = torch.zeros(len(run.batch), values[0].shape[-1]).to(values[0])
            for row, number in enumerate(run.batch.index.tolist()):
                following = (number + 1) % len(pairs)
                for place in places[number]:
                    other = values[following][places[following][0]]
                    change[row] += run.pattern[layer][row, index, place].to(change) * (other - values[number][place])
            tokens = run.batch.suffix.clean_tokens
            hooks = [(model.architecture.blocks[layer].z, lambda z, c=change, t=tokens: _added(z, c, t, index))]
            patched = resume(model.architecture, run.base, layer, hooks, tokens=run.batch.tokens)
            drop = question.metric_of(run.batch, run.base.logits) - question.metric_of(run.batch, patched)
            effects[run.batch.index] = drop.to("cpu", torch.float64)
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
    chosen: dict[str, tuple[str, int]] = {}
    for w, r, score, _ in entries:
        writer = graph.writer_names[w]
        if writer in labels and writer not in chosen and len(chosen) < most:
            chosen[writer] = graph.reader_names[r], 1 if (score or 0.0) >= 0 else -1
    if not chosen:
        return []
    edges = {writer: f"{writer}->{reader}" for writer, (reader, _) in chosen.items()}
    measured = exact_edge_effects_of(question.again(whole_prompts=False), list(edges.values()))
    effects = dict(zip(measured.edges, measured.per_prompt, strict=True))
    return [
        result_of(
            writer, f"patching its path to {reader} {'lowers' if sign > 0 else 'raises'} the metric",
            effects[edges[writer]] * sign, None,
        )
        for writer, (reader, sign) in chosen.items()
    ]  # fmt: skip


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
    if held and control is not None and control >= CONTROL * mean:
        held = False
    return DescriptionTest(node, statement, mean, stderr, p, control, held)


def whole_question(model: Model, pairs: PromptPairs) -> Question:
    """The question of the tests: interchange ablation, with all positions computed."""
    return Question.ask(model, pairs).again(whole_prompts=True)
