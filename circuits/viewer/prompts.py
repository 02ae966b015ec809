"""The prompts shown in the viewer: tokens, answers, and attention of heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from circuits.errors import InputError, ModelError, PairsError
from circuits.model import Model
from circuits.prompts.pair import Pair, Place
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.sequences import Answer, tokens_of
from circuits.results.circuit import Circuit
from circuits.viewer.attention import attention_patterns

PROMPTS = 8
"""Number of pairs on a page."""
MOST_ANSWERS = 12
"""Number of answers, and of distractors, shown per pair."""
ROOM = 150_000
"""Characters available for all attention patterns of a page."""


@dataclass(frozen=True)
class ShownPrompt:
    """A pair as text.

    Attributes:
        number: number of the pair, from 0.
        clean, corrupted: tokens.
        answers, distractors: tokens; if there are many, the first few and the number of others.
        roles: name -> token index, or a half-open range of tokens.
        patterns: head -> its attention on the clean prompt, [query, key].
        spans: name -> the tokens of a span; empty if the pairs have no common spans.
        differs: of prompts of unequal length, the tokens that differ from their partner, in both prompts; None: those that
            differ from the token at the same position.
    """

    number: int
    clean: Sequence[str]
    corrupted: Sequence[str] = ()
    answers: Sequence[str] = ()
    distractors: Sequence[str] = ()
    roles: Mapping[str, Place] = field(default_factory=dict)
    patterns: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    spans: Mapping[str, Place] = field(default_factory=dict)
    differs: Mapping[str, Sequence[int]] | None = None


def shown_prompts(
    model: Model, pairs: PromptPairs, circuits: Sequence[Circuit], first: int = 0, room: int = ROOM
) -> tuple[ShownPrompt, ...]:
    """The pairs that a page shows.

    Args:
        model: a model, for its attention and its tokenizer.
        pairs: the prompts.
        circuits: circuits whose heads' attention is shown, starting with the heads of the strongest edges.
        first: number of the first pair.
        room: characters available for the attention patterns; 0: no attention, and the model is not run.

    Raises:
        InputError: the pair does not exist.
    """
    if not 0 <= first < len(pairs):
        raise InputError(f"there is no pair {first}; there are {len(pairs)}, counted from 0")
    heads, shown = _strongest_heads(circuits), []
    for i in range(first, min(first + PROMPTS, len(pairs))):
        each = len(pairs.clean[i]) * (len(pairs.clean[i]) + 1)
        chosen = heads[: room // each]
        patterns: Mapping[str, list[list[float]]] = {}
        if chosen:
            try:
                _, patterns = attention_patterns(model, pairs, chosen, i)
            except ModelError:  # the model does not expose its attention patterns
                room = 0
        room -= each * len(patterns)
        shown.append(_shown(model, i, pairs.pair(i), patterns, _spans(pairs, i)))
    return tuple(shown)


def _strongest_heads(circuits: Sequence[Circuit]) -> list[str]:
    """Heads of the circuits, ordered by the largest score of their edges."""
    largest: dict[str, float] = {}
    for circuit in circuits:
        graph = circuit.graph
        for w, r, score, _ in circuit.entries():
            for node in (graph.writer_names[w], *graph.nodes_fed_by(graph.reader_nodes[r])):
                if node[0] == "a":
                    largest[node] = max(largest.get(node, 0.0), abs(score or 0.0))
        largest = {node: size for node, size in largest.items() if any(node in each.nodes for each in circuits)}
    return sorted(largest, key=lambda head: -largest[head])


def _spans(pairs: PromptPairs, number: int) -> dict[str, Place]:
    """The tokens of each span in a prompt; empty if the pairs have no common spans."""
    try:
        starts = pairs.span_starts(number)
    except PairsError:
        return {}
    ends = (*starts[1:], len(pairs.clean[number]))
    return {name: (start, end) for name, start, end in zip(pairs.spans, starts, ends, strict=True)}


def _shown(
    model: Model,
    number: int,
    pair: Pair,
    patterns: Mapping[str, list[list[float]]],
    spans: Mapping[str, Place],
) -> ShownPrompt:
    def texts(ids: Sequence[int]) -> list[str]:
        return [str(i) for i in ids] if model.tokenizer is None else [model.tokenizer.decode([i]) for i in ids]

    def few(answers: Sequence[Answer]) -> list[str]:
        more = len(answers) - MOST_ANSWERS
        joint = " " if model.tokenizer is None else ""
        shown = [joint.join(texts(tokens_of(answer))) for answer in answers[:MOST_ANSWERS]]
        return shown + ([f"… {more} more"] if more > 0 else [])

    prompts, sides = (texts(pair.clean), texts(pair.corrupted)), (few(pair.answers), few(pair.distractors))
    differs = None
    if pair.alignment:
        partners = {to: i for i, to in enumerate(pair.alignment)}
        equal = {to for to, i in partners.items() if pair.clean[i] == pair.corrupted[to]}
        differs = {"clean": pair.differing, "corrupted": [c for c in range(len(pair.corrupted)) if c not in equal]}
    return ShownPrompt(number, *prompts, *sides, dict(pair.roles), patterns, spans, differs)
