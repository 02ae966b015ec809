"""The evidence behind a description, measured once, and the line of each node that is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from circuits.descriptions.attention import ANSWER_POSITION, SpanMeans, attention
from circuits.descriptions.description import NodeLine
from circuits.descriptions.extended_embedding import determined_by_token
from circuits.descriptions.head_kinds import HeadKinds, head_kinds
from circuits.descriptions.neurons import TopNeurons, top_neurons
from circuits.descriptions.ov_scores import token_rates
from circuits.errors import ModelError
from circuits.methods.direct_effects import ELSEWHERE, direct_effects
from circuits.model import Model
from circuits.progress import StageProgress
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.sequences import tokens_of
from circuits.question.positions import label_bounds
from circuits.results.circuit import Circuit
from circuits.results.node_scores import DirectEffects

TIERS = (
    ("name mover", "negative mover", "wrong-answer suppressor"),
    ("S-inhibition", "prefix matching", "repeated token"),
    ("induction", "copy suppression", "duplicate token", "previous token", "successor", "current token"),
)
"""Kinds that name a head better than those behind them, and than all others: what it does on the task's prompts comes first."""
COPIES, SUPPRESSES = ("name mover", "copying"), ("negative mover", "wrong-answer suppressor", "copy suppression")
TOP = 5
"""A token counts as copied if it is among so many largest logits of what a head writes there, of the whole vocabulary."""
LOOKS = 0.2
"""The smallest mean attention to a role that a line names."""
EMBEDDING = 0.9
"""The share of variance above which the first MLP is called an extended embedding."""
LARGE = 0.02
"""The smallest share of the metric that a neuron must write, or a head from one token, to be named for it."""
LEVEL = 0.05
MOST_NAMES = 3
MOST_KINDS = 2


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that lines are made of.

    Attributes:
        circuit: the circuit.
        direct: direct effects of all writers.
        by_source: of the circuit's heads, by the role of the source token; None without roles.
        spans: mean attention between roles.
        uniform: role -> what uniform attention from it would give each token.
        kinds: of all heads.
        rates: of heads that move or suppress answers: the shares of the task's answers and distractors that they copy and suppress.
        rate_by_chance: the same rates of a random order of the vocabulary.
        neurons: of the circuit's MLPs; None if the model does not show them.
        n_neurons: of one MLP.
        embedding: the share of the first MLP's output that its own token determines; None if it is not in the circuit.
    """

    circuit: Circuit
    direct: DirectEffects
    by_source: DirectEffects | None
    spans: SpanMeans | None
    uniform: Mapping[str, float]
    kinds: HeadKinds
    rates: dict[str, tuple[float, float]]
    rate_by_chance: float
    neurons: TopNeurons | None
    n_neurons: int
    embedding: float | None

    @classmethod
    def measure(
        cls, model: Model, pairs: PromptPairs, circuit: Circuit, seed: int, draws: int, stage: StageProgress
    ) -> "Evidence":
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
        movers = [head for head in heads if set(kinds.significant(head)) & {*COPIES, *SUPPRESSES}]
        words = {token for ids in (*pairs.answers, *pairs.distractors) for entry in ids for token in tokens_of(entry)}
        rates = token_rates(model, movers, sorted(words), TOP) if movers and len(words) > 1 else {}
        uniform = {} if spans is None else {query: _uniform(query, pairs) for query in spans.queries}
        return cls(
            circuit,
            direct,
            by_source,
            spans,
            uniform,
            kinds,
            rates,
            TOP / model.d_vocab,
            neurons,
            model.n_neurons,
            embedding,
        )

    def moves(self, head: str) -> bool:
        """Whether a head has a kind about the answers in the prompt."""
        return bool(set(self.kinds.significant(head)) & {*TIERS[0]})

    def line(self, node: str) -> NodeLine:
        """The line of one node."""
        reads, feeds = self._wiring(node)
        row = self.direct.nodes.index(node)
        facts: dict[str, Any] = {
            "direct effect": float(self.direct.values[row]), "direct effect stderr": float(self.direct.stderr[row])
        }  # fmt: skip
        label, clauses = None, []
        if node[0] == "a":
            label = self._head(node, facts, clauses)
            source = self._source_of(node)
            general = label is None or not any(label in tier for tier in TIERS)
            if source is not None and general and self._looks_at(node, source[0]):
                label = f"{source[0]} reader"
        unit = f" {self.direct.quantity.unit}".rstrip()
        clauses.append(
            f"writes {facts['direct effect']:+.2f} ± {facts['direct effect stderr']:.2f}{unit} to the metric itself"
        )
        if node[0] == "a" and self.by_source is not None:
            self._source(node, facts, clauses)
        if node[0] == "m":
            label = self._mlp(node, facts, clauses)
        for part, what in (
            ("q", "reads its query from"),
            ("k", "its keys from"),
            ("v", "its values from"),
            ("in", "reads"),
        ):
            clauses += [f"{what} {_few(reads[part])}"] if part in reads else []
        clauses += [f"feeds {_few(feeds)}"] if feeds else []
        begin = f"{node}: " + (
            "" if label is None or (clauses and clauses[0].startswith(f"{label} ")) else f"{label}. "
        )
        text = begin + "; ".join(clauses)
        return NodeLine(node, label, text, facts, reads, feeds)

    def _head(self, node: str, facts: dict[str, Any], clauses: list[str]) -> str | None:
        """Kinds and attention of a head; returns its label."""
        own, kinds = self.kinds.significant(node), self.kinds
        row = kinds.heads.index(node)
        ordered = sorted(own, key=lambda kind: next((i for i, tier in enumerate(TIERS) if kind in tier), len(TIERS)))
        facts["kinds"] = {
            kind: {name: float(table[row, kinds.kinds.index(kind)]) for name, table in
                   (("score", kinds.score), ("null", kinds.null), ("p", kinds.p))}
            for kind in ordered
        }  # fmt: skip
        shown = [
            f"{kind} {value['score']:.2f} (null {value['null']:.2f}, p {value['p']:.2f})"
            for kind, value in facts["kinds"].items()
        ]
        clauses += shown[:1] + [f"also {kind}" for kind in shown[1:MOST_KINDS]]
        if node in self.rates:
            copied, suppressed = facts["copies"], facts["suppresses"] = self.rates[node]
            more = f"suppresses {suppressed:.0%}" if set(own) & {*SUPPRESSES} else f"copies {copied:.0%}"
            clauses.append(f"{more} of the task's answers and distractors (chance {self.rate_by_chance:.2%})")
        if self.spans is not None:
            self._looks(node, self.spans, facts, clauses)
        if {"name mover", "prefix matching"} <= set(own):
            return "induction"
        return ordered[0] if ordered else None

    def _looks(self, node: str, spans: SpanMeans, facts: dict[str, Any], clauses: list[str]) -> None:
        """Where a head looks from the answer position; if that is at no role, from which role it looks at another most."""
        i, last = spans.heads.index(node), spans.queries.index(ANSWER_POSITION)
        mean, stderr = spans.mean[i], spans.stderr[i]
        facts["attention from the answer position"] = dict(zip(spans.keys, mean[last].tolist(), strict=True))
        elsewhere = [q for q in range(len(spans.queries)) if not torch.equal(mean[q], mean[last])]
        seen = [(last, k) for k in range(len(spans.queries)) if mean[last, k] >= LOOKS]
        seen = seen or [(q, k) for q in elsewhere for k in elsewhere if k != q and mean[q, k] >= LOOKS]
        if not seen:
            return
        seen.sort(key=lambda place: -float(mean[place]))
        query = seen[0][0]
        by_share: dict[float, str] = {}  # two roles of one token have the same attention
        for q, k in seen:
            if q == query and float(mean[q, k]) not in by_share:
                by_share[float(mean[q, k])] = f"{spans.keys[k]} {float(mean[q, k]):.2f} ± {float(stderr[q, k]):.2f}"
        where = spans.queries[query] if query != last else f"the {ANSWER_POSITION}"
        facts[f"attention from {spans.queries[query]}"] = dict(zip(spans.keys, mean[query].tolist(), strict=True))
        looks = " and ".join(list(by_share.values())[:2])
        clauses.append(f"looks from {where} at {looks} (uniform {self.uniform[spans.queries[query]]:.2f})")

    def _source(self, node: str, facts: dict[str, Any], clauses: list[str]) -> None:
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
            clauses[-1] += f", of which {values[best]:+.2f} ± {errors[best]:.2f} from {where}"

    def _source_of(self, node: str) -> tuple[str, float] | None:
        """The role before the answer position from which most of a head's direct effect comes, if it is large and sure enough."""
        if self.by_source is None or self.by_source.positions is None:
            return None
        row, roles = self.by_source.nodes.index(node), self.by_source.positions
        best = int(self.by_source.values[row].abs().argmax())
        effect, stderr = float(self.by_source.values[row, best]), float(self.by_source.stderr[row, best])
        sure = roles[best] != ELSEWHERE and self._sure(effect, stderr, len(roles))
        return (roles[best], effect) if sure else None

    def _looks_at(self, node: str, role: str) -> bool:
        """Whether a head looks from the answer position at a role that is another token."""
        if self.spans is None or role not in self.spans.keys:
            return False
        i, last = self.spans.heads.index(node), self.spans.queries.index(ANSWER_POSITION)
        mean, k = self.spans.mean[i], self.spans.queries.index(role)
        return bool(mean[last, k] >= LOOKS) and not torch.equal(mean[k], mean[last])

    def _mlp(self, node: str, facts: dict[str, Any], clauses: list[str]) -> str | None:
        """Neurons of an MLP; returns its label."""
        if self.neurons is not None:
            rows = [row for row in self.neurons.rows() if row["node"].split(".")[0] == node][:MOST_NAMES]
            facts["neurons"] = rows
            shown = [
                f"{row['node']} {row['direct effect']:+.2f} (promotes {row['promotes']}; fires on {row['fires on']})"
                for row in rows if self._sure(row["direct effect"], row["stderr"], self.n_neurons)
            ]  # fmt: skip
            clauses += [f"neurons that stand out: {'; '.join(shown)}"] if shown else []
        if node == "m0" and self.embedding is not None:
            facts["determined by its token"] = self.embedding
            clauses.append(f"its own token determines {self.embedding:.0%} of its output")
            return "extended embedding" if self.embedding >= EMBEDDING else None
        return None

    def _sure(self, effect: float, stderr: float, tried: int) -> bool:
        """Whether a direct effect is a share of the metric worth naming, and differs from 0 (Student's two-sided test, Bonferroni over
        those that were tried)."""
        from scipy.stats import t

        assert self.direct.clean is not None
        n = self.direct.per_prompt.shape[1]
        if n < 2 or abs(effect) < LARGE * abs(float(self.direct.clean.mean())):
            return False
        return stderr == 0 or 2 * float(t.sf(abs(effect) / stderr, n - 1)) * tried <= LEVEL

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
        """What could not be determined."""
        heads = [line.node for line in lines if line.node[0] == "a" and line.label is None]
        mlps = [line.node for line in lines if line.node[0] == "m" and line.label is None]
        texts = [f"heads without a kind above its null ({len(heads)}): {', '.join(heads)}"] if heads else []
        texts += [f"MLPs, of which only direct effects are known ({len(mlps)}): {', '.join(mlps)}"] if mlps else []
        texts += [] if self.neurons is not None or not mlps else ["this model does not show its neurons"]
        return (*texts, *(f"{kind}: {why}" for kind, why in self.kinds.missing.items()))


def _uniform(query: str, pairs: PromptPairs) -> float:
    """What uniform attention from a role would give each token: the mean over the pairs."""
    places = (
        pairs.positions if query == ANSWER_POSITION else [label_bounds(query, i, pairs)[0] for i in range(len(pairs))]
    )
    return sum(1 / (place + 1) for place in places) / len(pairs)


def _few(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
