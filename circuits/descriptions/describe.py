"""What each node of a circuit does, in one line per node, with the numbers and their null values.

A line has, as far as they are known: the node's kind (`circuits.head_kinds`); where it looks from the answer position, beside the attention
that uniform attention would give; its direct effect on the metric and the token that this comes from; what it copies; the top
neurons of an MLP; and what it reads and feeds in the circuit. Nothing else is claimed: a head without a kind above its null gets no
label, and `Description.unsaid` names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from circuits.descriptions.attention import ANSWER_POSITION, OTHER, SpanMeans, attention
from circuits.descriptions.description import Description, DescriptionTest, NodeLine
from circuits.descriptions.extended_embedding import determined_by_token
from circuits.descriptions.head_kinds import HeadKinds, head_kinds
from circuits.descriptions.implied_tests import clean_runs, edge_tests, mover_test, whole_question
from circuits.descriptions.neurons import TopNeurons, top_neurons
from circuits.descriptions.ov_scores import token_rates
from circuits.errors import InputError, ModelError
from circuits.methods.direct_effects import ELSEWHERE, direct_effects
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.sequences import tokens_of
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.node_scores import DirectEffects
from circuits.results.provenance import provenance

DRAWS = 19
"""Rotated heads for the null of kinds."""
SPECIFIC = (
    "name mover", "negative mover", "wrong-answer suppressor", "S-inhibition", "induction", "copy suppression", "duplicate token",
    "previous token", "successor", "current token",
)  # fmt: skip
"""Kinds that name a head better than the others."""
COPIES, SUPPRESSES = ("name mover", "copying"), ("negative mover", "wrong-answer suppressor", "copy suppression")
TOP = 5
"""A token counts as copied if it is among so many largest logits of what a head writes there, of the whole vocabulary."""
LOOKS = 0.2
"""The smallest mean attention to a role that a line names."""
EMBEDDING = 0.9
"""The share of variance above which the first MLP is called an extended embedding."""
MOST_NAMES = 3
MOST_TESTS = 6
"""Edges that are tested, and movers that are tested."""


@on_model
def describe(
    model: Model,
    pairs: PromptPairs,
    circuit: Circuit,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    tests: bool = True,
    stage: StageProgress = silent,
) -> Description:
    """Describes every node of a circuit.

    Args:
        model: the circuit's model.
        pairs: the task's prompts.
        circuit: the circuit.
        seed: of the random sequences and rotations of `head_kinds`.
        draws: rotated heads for the null of each kind, at least 19.
        tests: run the interventions that the description implies; they take a few forward passes each.
        stage: progress reporting.

    Raises:
        InputError: the circuit is empty, or of another graph.
        ModelError: the model does not show its attention.
    """
    if circuit.places is not None:
        raise InputError("this circuit has places, and descriptions are of whole nodes: give circuit.without_places()")
    if circuit.graph != model.graph:
        raise InputError(f"the circuit is of another graph than {model.name}: give the circuit's own model")
    if not len(circuit):
        raise InputError("the circuit has no edges, so there is nothing to describe")
    evidence = _Evidence.of(model, pairs, circuit, seed, draws, stage)
    lines = tuple(evidence.line(node) for node in circuit.nodes if node != "logits")
    labels = {line.node: line.label for line in lines if line.label is not None}
    groups = {f"{label}s": nodes for label in dict.fromkeys(labels.values())
              if len(nodes := tuple(node for node, own in labels.items() if own == label)) > 1}  # fmt: skip
    pairs.require_one_token("describe")
    question = whole_question(model, pairs)
    results: tuple[DescriptionTest, ...] = ()
    if tests:
        with stage("testing the description") as progress:
            results = _tests(question, circuit, evidence, labels)
            progress(1, 1)
    options = {"seed": seed, "draws": draws, "tests": tests, "edges": len(circuit)}
    return Description(
        lines, labels, groups, results, evidence.unsaid(lines), provenance(question, "describe", options)
    )


def _tests(
    question: Question, circuit: Circuit, evidence: "_Evidence", labels: dict[str, str]
) -> tuple[DescriptionTest, ...]:
    movers = [
        (node, 1 if label == "name mover" else -1)
        for node, label in labels.items()
        if label in ("name mover", "negative mover")
    ]
    movers.sort(key=lambda mover: -abs(evidence.direct[mover[0]]))
    movers = movers[:MOST_TESTS]
    runs = clean_runs(question, [node for node, _ in movers])
    made = [mover_test(question, node, sign, runs) for node, sign in movers]
    return (*(test for test in made if test is not None), *edge_tests(question, circuit, labels, MOST_TESTS))


@dataclass(frozen=True, eq=False)
class _Evidence:
    """All that lines are made of.

    Attributes:
        circuit: the circuit.
        direct: direct effects of all writers.
        by_source: of the circuit's heads, by the role of the source token; None without roles.
        spans: mean attention between roles.
        uniform: role -> what uniform attention from the answer position would give each of its tokens.
        kinds: of all heads.
        rates: of heads that move or suppress answers: the shares of the task's answers and distractors that they copy and suppress.
        rate_by_chance: the same rates of a random order of the vocabulary.
        neurons: of the circuit's MLPs; None if the model does not show them.
        embedding: the share of the first MLP's output that its own token determines; None if it is not in the circuit.
    """

    circuit: Circuit
    direct: DirectEffects
    by_source: DirectEffects | None
    spans: SpanMeans | None
    uniform: float
    kinds: HeadKinds
    rates: dict[str, tuple[float, float]]
    rate_by_chance: float
    neurons: TopNeurons | None
    embedding: float | None

    @classmethod
    def of(
        cls, model: Model, pairs: PromptPairs, circuit: Circuit, seed: int, draws: int, stage: StageProgress
    ) -> "_Evidence":
        """Measures it."""
        heads = [node for node in circuit.nodes if node[0] == "a"]
        mlps = [node for node in circuit.nodes if node[0] == "m"]
        named = any(all(role in roles for roles in pairs.roles) for role in pairs.roles[0])
        with stage("measuring direct effects and attention") as progress:
            direct = direct_effects(model, pairs)
            by_source = direct_effects(model, pairs, nodes=heads, positions="roles") if heads and named else None
            spans = attention(model, pairs, heads).by_span() if heads else None
            try:
                neurons = top_neurons(model, pairs, mlps) if mlps else None
            except ModelError:  # a mixture of experts, or no hook for neurons
                neurons = None
            embedding = determined_by_token(model, pairs) if "m0" in mlps else None
            progress(1, 1)
        with stage("scoring kinds of heads") as progress:
            kinds = head_kinds(model, pairs, seed, draws=draws, progress=progress)
        movers = [head for head in heads if set(kinds.of(head)) & {*COPIES, *SUPPRESSES}]
        words = {token for ids in (*pairs.answers, *pairs.distractors) for entry in ids for token in tokens_of(entry)}
        rates = token_rates(model, movers, sorted(words), TOP) if movers and len(words) > 1 else {}
        uniform = sum(1 / (position + 1) for position in pairs.positions) / len(pairs)
        return cls(circuit, direct, by_source, spans, uniform, kinds, rates, TOP / model.d_vocab, neurons, embedding)

    def line(self, node: str) -> NodeLine:
        """The line of one node."""
        reads, feeds = self._wiring(node)
        row = self.direct.nodes.index(node)
        facts: dict[str, Any] = {
            "direct effect": float(self.direct.values[row]), "direct effect stderr": float(self.direct.stderr[row])
        }  # fmt: skip
        label, said = None, []
        if node[0] == "a":
            label = self._head(node, facts, said)
        said.append(f"writes {facts['direct effect']:+.2f} ± {facts['direct effect stderr']:.2f} to the metric itself")
        if node[0] == "a" and self.by_source is not None:
            self._source(node, facts, said)
        if node[0] == "m":
            label = self._mlp(node, facts, said)
        for part, what in (
            ("q", "reads its query from"),
            ("k", "its keys from"),
            ("v", "its values from"),
            ("in", "reads"),
        ):
            said += [f"{what} {_few(reads[part])}"] if part in reads else []
        said += [f"feeds {_few(feeds)}"] if feeds else []
        begin = f"{node}: " + (f"{label}. " if label else "")
        text = begin + "; ".join(said)
        return NodeLine(node, label, text, facts, reads, feeds)

    def _head(self, node: str, facts: dict[str, Any], said: list[str]) -> str | None:
        """Kinds and attention of a head; returns its label."""
        own, kinds = self.kinds.of(node), self.kinds
        row = kinds.heads.index(node)
        ordered = [kind for kind in own if kind in SPECIFIC] + [kind for kind in own if kind not in SPECIFIC]
        facts["kinds"] = {
            kind: {name: float(table[row, kinds.kinds.index(kind)]) for name, table in
                   (("score", kinds.score), ("null", kinds.null), ("p", kinds.p))}
            for kind in ordered
        }  # fmt: skip
        shown = [
            f"{kind} {value['score']:.2f} (null {value['null']:.2f}, p {value['p']:.2f})"
            for kind, value in facts["kinds"].items()
        ]
        said += shown[:MOST_NAMES]
        if node in self.rates:
            copied, suppressed = facts["copies"], facts["suppresses"] = self.rates[node]
            more = f"suppresses {suppressed:.0%}" if set(own) & {*SUPPRESSES} else f"copies {copied:.0%}"
            said.append(f"{more} of the task's answers and distractors (chance {self.rate_by_chance:.2%})")
        if self.spans is not None:
            i, q = self.spans.heads.index(node), self.spans.queries.index(ANSWER_POSITION)
            weights = {
                key: (float(self.spans.mean[i, q, j]), float(self.spans.stderr[i, q, j]))
                for j, key in enumerate(self.spans.keys)
            }
            facts["attention from the answer position"] = {key: value for key, (value, _) in weights.items()}
            seen = sorted(((v, e, key) for key, (v, e) in weights.items() if key != OTHER and v >= LOOKS), reverse=True)
            seen = [
                entry for i, entry in enumerate(seen) if i == 0 or entry[0] != seen[i - 1][0]
            ]  # two roles of one token
            looks = [f"{key} {v:.2f} ± {e:.2f}" for v, e, key in seen[:2]]
            said += (
                [f"looks from the answer position at {' and '.join(looks)} (uniform {self.uniform:.2f})"]
                if looks
                else []
            )
        return ordered[0] if ordered else None

    def _source(self, node: str, facts: dict[str, Any], said: list[str]) -> None:
        """The token from which a head's direct effect comes."""
        assert self.by_source is not None
        assert self.by_source.positions is not None
        row = self.by_source.nodes.index(node)
        values, errors = self.by_source.values[row].tolist(), self.by_source.stderr[row].tolist()
        facts["direct effect by source"] = dict(zip(self.by_source.positions, values, strict=True))
        best = max(range(len(values)), key=lambda i: abs(values[i]))
        label = self.by_source.positions[best]
        if abs(values[best]) > 2 * errors[best]:
            where = "other tokens" if label == ELSEWHERE else label
            said[-1] += f", of which {values[best]:+.2f} ± {errors[best]:.2f} from {where}"

    def _mlp(self, node: str, facts: dict[str, Any], said: list[str]) -> str | None:
        """Neurons of an MLP; returns its label."""
        if self.neurons is not None:
            top = [row for row in self.neurons.rows() if row["node"].split(".")[0] == node][:MOST_NAMES]
            facts["neurons"] = top
            shown = [
                f"{row['node']} {row['direct effect']:+.2f} (promotes {row['promotes']}; fires on {row['fires on']})"
                for row in top
            ]
            said += [f"its top neurons: {'; '.join(shown)}"] if shown else []
        if node == "m0" and self.embedding is not None:
            facts["determined by its token"] = self.embedding
            said.append(f"its own token determines {self.embedding:.0%} of its output")
            return "extended embedding" if self.embedding >= EMBEDDING else None
        return None

    def _wiring(self, node: str) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
        """What a node reads, and the readers that it feeds, by the size of the edges' scores."""
        graph = self.circuit.graph
        entries = sorted(self.circuit.entries(), key=lambda entry: -abs(entry[2] or 0.0))
        reads: dict[str, list[str]] = {}
        feeds = []
        for w, r, _, _ in entries:
            reader, writer = graph.reader_nodes[r], graph.writer_names[w]
            if node == reader.node or node in graph.nodes_fed_by(reader):
                reads.setdefault(reader.kind, []).append(writer)
            if writer == node:
                feeds.append(reader.name)
        return {part: tuple(writers) for part, writers in reads.items()}, tuple(feeds)

    def unsaid(self, lines: Sequence[NodeLine]) -> tuple[str, ...]:
        """What could not be said."""
        heads = [line.node for line in lines if line.node[0] == "a" and line.label is None]
        mlps = [line.node for line in lines if line.node[0] == "m" and line.label is None]
        texts = [f"{len(heads)} heads have no kind above their null: {', '.join(heads)}"] if heads else []
        texts += [f"{len(mlps)} MLPs have direct effects only, and no kind: {', '.join(mlps)}"] if mlps else []
        texts += [] if self.neurons is not None or not mlps else ["this model does not show its neurons"]
        return (*texts, *(f"{kind}: {why}" for kind, why in self.kinds.missing.items()))


def _few(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
