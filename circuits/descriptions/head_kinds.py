"""Kinds of attention heads: a score in [0, 1] for each head and kind, with a null distribution.

`circuits.descriptions.kind_scores` defines the kinds. The null is the same score of heads that look in random directions
(`circuits.descriptions.rotated`): the same singular values, streams and masks. A head has a kind if its p value is at most the level and
its score at least `LEAST` above the mean of its null. In models with independent normal weights, at most a share `level` of the heads has any one kind by
chance (`benchmarks/kinds_by_chance.py`); over K kinds a head has some kind with a chance of at most K · level.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.descriptions.kind_scores import Scores, answer_places, on_prompts, on_sequences
from circuits.descriptions.output_values import favours, output_maps, ov_logits
from circuits.descriptions.probe_prompts import Repeated, repeated_sequences
from circuits.descriptions.rotated import Rotation, Streams, record, rotated_patterns, rotations
from circuits.descriptions.series import series_tokens
from circuits.engine.hooks import TokenBatch, inference_state
from circuits.errors import InputError
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.sequences import tokens_of
from circuits.question.question import Question
from circuits.results.provenance import Provenance, frozen, provenance
from circuits.shown import Shown

DRAWS = 39
"""Rotated heads for each head: the smallest p value is 1/40."""
LEVEL = 0.05
LEAST = 0.2
"""How far the score of a head must lie above its null for a kind."""
PAIRS = 32
"""At most so many pairs are used."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class HeadKinds(Shown):
    """Scores of all heads for all kinds.

    Attributes:
        heads, kinds: names.
        score: mean over the prompts, in [0, 1].
        stderr: its standard error over the prompts, or over the tokens for copying and successor.
        null: mean score of the rotated heads.
        p: the share of head and rotated heads that have at least the head's score.
        missing: kinds that these prompts cannot show -> the reason.
        provenance: the origin.
    """

    heads: tuple[str, ...]
    kinds: tuple[str, ...]
    score: Float[Tensor, "head kind"]
    stderr: Float[Tensor, "head kind"]
    null: Float[Tensor, "head kind"]
    p: Float[Tensor, "head kind"]
    missing: Mapping[str, str] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def rows(self) -> Sequence[dict[str, Any]]:
        """One row per head and kind."""
        columns = {"score": self.score, "stderr": self.stderr, "null": self.null, "p": self.p}
        return [
            {"head": head, "kind": kind} | {name: float(table[h, k]) for name, table in columns.items()}
            for h, head in enumerate(self.heads) for k, kind in enumerate(self.kinds)
        ]  # fmt: skip

    def _shown_rows(self) -> Sequence[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: (row["p"] > LEVEL, row["null"] - row["score"]))

    def significant(self, head: str, level: float = LEVEL, least: float = LEAST) -> tuple[str, ...]:
        """The kinds of a head, the one with the largest score above its null first.

        Args:
            head: its name.
            level: the largest p value.
            least: the smallest difference of score and null.

        Raises:
            InputError: there is no such head, or the level is not between 0 and 1.
        """
        if head not in self.heads:
            raise InputError(f"there is no head {head!r} here")
        if not 0 < level < 1:
            raise InputError(f"level must be between 0 and 1, got {level}")
        row = self.heads.index(head)
        above = (self.score - self.null)[row].tolist()
        known = [k for k in range(len(self.kinds)) if self.p[row, k] <= level and above[k] >= least]
        return tuple(self.kinds[k] for k in sorted(known, key=lambda k: -above[k]))

    def __getitem__(self, kind: str) -> dict[str, float]:
        """The scores of all heads for one kind."""
        return dict(zip(self.heads, self.score[:, self._column(kind)].tolist(), strict=True))

    def only(self, kind: str) -> "HeadKinds":
        """The scores for one kind alone; InputError if it is not among those measured."""
        chosen = [self._column(kind)]
        parts = {name: getattr(self, name)[:, chosen] for name in ("score", "stderr", "null", "p")}
        return replace(self, kinds=(kind,), **parts)

    def _column(self, kind: str) -> int:
        if kind not in self.kinds:
            why = self.missing.get(kind)
            raise InputError(
                f"there is no kind {kind!r} here" + (f": {why}" if why else f" (one of {', '.join(self.kinds)})")
            )
        return self.kinds.index(kind)

    def __repr__(self) -> str:
        return f"HeadKinds({len(self.heads)} heads × {len(self.kinds)} kinds)"


@on_model
def head_kinds(
    model: Model,
    pairs: PromptPairs | None = None,
    seed: int = 0,
    *,
    draws: int = DRAWS,
    progress: Progress | None = None,
) -> HeadKinds:
    """Scores every head for every kind, on random repeated sequences and on the task's prompts.

    Args:
        model: a model that shows its attention patterns.
        pairs: the task's prompts, of which the first 32 are used; None: only kinds that repeated sequences show.
        seed: of the sequences and the rotations.
        draws: rotated heads for each head; at least 19, so that p values reach 0.05.
        progress: called with (draws done, total).

    Raises:
        InputError: too few draws, or a model with too short a context.
        ModelError: the model does not show its attention patterns.
    """
    if draws < 19:
        raise InputError(f"draws must be at least 19, so that p can be 0.05, got {draws}")
    if pairs is not None:
        pairs.require_one_token("head_kinds")
    asked = (
        pairs if pairs is None else PromptPairs.from_pairs(list(pairs)[:PAIRS], pairs.source, pairs.seed, pairs.metric)
    )
    with inference_state(model.bridge), torch.no_grad():
        bench = _Bench.measure(model, asked, seed)
        own = bench.scores(None)
        at_least = {kind: torch.zeros(len(scores)) for kind, scores in own.items()}
        total = {kind: torch.zeros(len(scores), dtype=torch.float64) for kind, scores in own.items()}
        for i, rotation in enumerate(rotations(model.architecture, draws, seed)):
            for kind, scores in bench.scores(rotation).items():
                mean = scores.double().mean(1)
                at_least[kind] += mean >= own[kind].double().mean(1) - ROUNDING
                total[kind] += mean
            if progress is not None:
                progress(i + 1, draws)
    kinds = tuple(own)
    columns = [own[kind].double() for kind in kinds]
    stderr = [
        c.std(1) / c.shape[1] ** 0.5 if c.shape[1] > 1 else torch.full((len(c),), torch.nan).double() for c in columns
    ]
    heads = tuple(writer.name for writer in model.graph.writer_nodes if writer.kind == "head")
    return HeadKinds(
        heads, kinds, torch.stack([c.mean(1) for c in columns], 1), torch.stack(stderr, 1),
        torch.stack([total[kind] / draws for kind in kinds], 1),
        torch.stack([(1 + at_least[kind].double()) / (1 + draws) for kind in kinds], 1),
        bench.missing(kinds), _origin(model, asked, {"seed": seed, "draws": draws}),
    )  # fmt: skip


ROUNDING = 1e-6
"""Scores that differ by less are equal: a head whose score does not depend on directions equals its rotated heads."""


def _origin(model: Model, pairs: PromptPairs | None, options: dict[str, Any]) -> Provenance:
    if pairs is None:
        return frozen({"method": "head_kinds", "options": options, "model": model.name, "revision": model.revision})
    return provenance(Question.ask(model, pairs, None, "zero"), "head_kinds", options)


@dataclass(frozen=True, eq=False)
class _Bench:
    """Everything that the scores of a head and of its rotated heads are computed from.

    Attributes:
        model, pairs, repeated: the model and the prompts.
        sequences: its streams on the repeated sequences, and the patterns [head, sequence, query, key].
        prompts: the same for the pairs, in batches of one length: the pairs' numbers, streams and patterns.
        series: the same for words of series, and the number of each word's successor; None without them.
        candidates: tokens whose logits heads may raise.
        output: per layer W_O W_U at the candidates, see `output_values`.
    """

    model: Model
    pairs: PromptPairs | None
    repeated: Repeated
    sequences: tuple[Streams, Tensor]
    prompts: tuple[tuple[list[int], Streams, Tensor], ...]
    series: tuple[Streams, Int[Tensor, " word"], Int[Tensor, " word"]] | None
    candidates: Int[Tensor, " candidate"]
    output: list[Float[Tensor, "head d_head candidate"]]

    @classmethod
    def measure(cls, model: Model, pairs: PromptPairs | None, seed: int) -> "_Bench":
        """Runs the model on all prompts."""
        architecture, device = model.architecture, model.device
        repeated = repeated_sequences(model, pairs, seed)
        prompts = []
        for batch in () if pairs is None else pairs.batches(PAIRS):
            prompts.append(
                (
                    batch.index.tolist(),
                    *record(architecture, TokenBatch(batch.clean.to(device), batch.position.to(device))),
                )
            )
        series = None
        words = series_tokens(model)
        if words is not None:
            tokens = torch.tensor([[*words.before, token] for token in words.tokens], device=device)
            streams, _ = record(architecture, _ending(tokens))
            series = streams, torch.tensor(words.tokens), torch.tensor(words.successor)
        wanted = {*repeated.tokens[:, 1:].flatten().tolist(), *_answers(pairs)}
        candidates = torch.tensor(sorted(wanted))
        output = output_maps(architecture, candidates.to(device))
        sequences = record(architecture, _ending(repeated.tokens.to(device)))
        return cls(model, pairs, repeated, sequences, tuple(prompts), series, candidates, output)

    def scores(self, rotation: Rotation | None) -> Scores:
        """The scores of all heads; of rotated heads with a rotation."""
        architecture = self.model.architecture
        streams, own = self.sequences
        pattern = own if rotation is None else rotated_patterns(architecture, streams, rotation)
        sources = self.repeated.tokens[:, 1 : self.repeated.half + 1]
        copies, suppresses = self._copying(streams, sources, rotation)
        scores = on_sequences(pattern, self.repeated, copies, suppresses)
        if self.pairs is not None:
            patterns: list[Tensor] = [own] * len(self.pairs)
            for numbers, at, own_pattern in self.prompts:
                rows = own_pattern if rotation is None else rotated_patterns(architecture, at, rotation)
                for i, number in enumerate(numbers):
                    patterns[number] = rows[:, i : i + 1]
            copies, suppresses = self._copying_answers(rotation)
            _, suppresses_wrong = self._copying_answers(rotation, wrong=True)
            scores |= on_prompts(patterns, self.pairs, copies, suppresses, suppresses_wrong)
        if self.series is not None:
            scores["successor"] = self._successors(rotation)
        return scores

    def missing(self, kinds: Iterable[str]) -> dict[str, str]:
        """Kinds without a score -> the reason."""
        reasons = {
            "name mover": "no right answer stands before the answer position of a prompt",
            "negative mover": "no right answer stands before the answer position of a prompt",
            "wrong-answer suppressor": "no wrong answer stands before the answer position of a prompt",
            "S-inhibition": "no wrong answer stands twice before the answer position of a prompt",
            "repeated token": "no answer, distractor or last token of a prompt stands there before",
            "prefix matching": "no answer, distractor or last token of a prompt stands there before",
            "same class": "no prompt has two different answers or distractors of the task",
            "successor": "the tokenizer has no series of words that are single tokens",
        }
        there = set(kinds)
        without = "there are no prompts of a task"
        return {
            k: without if self.pairs is None and k != "successor" else why
            for k, why in reasons.items()
            if k not in there
        }

    def _copying(
        self, streams: Streams, sources: Int[Tensor, "sequence source"], rotation: Rotation | None
    ) -> tuple[Float[Tensor, "head token"], Float[Tensor, "head token"]]:
        """Whether heads copy, and suppress, each source token of the sequences' first halves."""
        own = torch.searchsorted(self.candidates, sources.flatten())
        both: list[list[Tensor]] = [[], []]
        for block, output in zip(self.model.architecture.blocks, self.output, strict=True):
            x = streams.attn_in[block.layer][:, 1 : 1 + sources.shape[1]].flatten(0, 1)
            logits = ov_logits(block, x, output, rotation=rotation).cpu()
            for rows, sign in zip(both, (1, -1), strict=True):
                rows.append(favours(logits, own, sign).float())
        return torch.cat(both[0]), torch.cat(both[1])

    def _copying_answers(
        self, rotation: Rotation | None, wrong: bool = False
    ) -> tuple[Float[Tensor, "head pair"], Float[Tensor, "head pair"]]:
        """The same for the earlier right (or wrong) answers of the pairs: the mean over a pair's; 0 without any. Centred over the
        sequences."""
        assert self.pairs is not None
        places, n_heads = answer_places(self.pairs, wrong), len(self.sequences[1])
        both = torch.zeros(2, n_heads, len(self.pairs))
        half = slice(1, self.repeated.half + 1)
        group = self.model.architecture.n_heads
        for numbers, streams, _ in self.prompts:
            at = [(row, place, number) for row, number in enumerate(numbers) for place in places[number]]
            if not at:
                continue
            rows, positions, pair = (list(column) for column in zip(*at, strict=True))
            tokens = torch.tensor([self.pairs.clean[n][p] for n, p in zip(pair, positions, strict=True)])
            own = torch.searchsorted(self.candidates, tokens)
            for block, output in zip(self.model.architecture.blocks, self.output, strict=True):
                centre = self.sequences[0].attn_in[block.layer][:, half].flatten(0, 1).mean(0)
                x = streams.attn_in[block.layer][rows, positions]
                logits = ov_logits(block, x, output, centre, rotation).cpu()
                heads = slice(block.layer * group, (block.layer + 1) * group)
                for table, sign in zip(both, (1, -1), strict=True):
                    hit = favours(logits, own, sign).float()
                    for i, number in enumerate(pair):
                        table[heads, number] += hit[:, i] / len(places[number])
        return both[0], both[1]

    def _successors(self, rotation: Rotation | None) -> Float[Tensor, "head word"]:
        assert self.series is not None
        streams, tokens, successor = self.series
        candidates = tokens.unique()
        output = output_maps(self.model.architecture, candidates.to(self.model.device))
        at, hits = torch.searchsorted(candidates, successor.clamp(min=0)), []
        for block, maps in zip(self.model.architecture.blocks, output, strict=True):
            logits = ov_logits(block, streams.attn_in[block.layer][:, -1], maps, rotation=rotation).cpu()
            # The word itself does not compete: a head that copies and counts is a successor head too.
            logits.scatter_(
                2, torch.searchsorted(candidates, tokens)[None, :, None].expand(len(logits), -1, 1), -torch.inf
            )
            hits.append(favours(logits, at)[:, successor >= 0].float())
        return torch.cat(hits)


def _ending(tokens: Int[Tensor, "sequence pos"]) -> TokenBatch:
    return TokenBatch(tokens, torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device))


def _answers(pairs: PromptPairs | None) -> set[int]:
    if pairs is None:
        return set()
    return {token for side in (*pairs.answers, *pairs.distractors) for entry in side for token in tokens_of(entry)}
