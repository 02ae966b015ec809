"""Sets of nodes patched together, measured piece by piece, for diagnostics and verification.

    outcome(set) = metric(clean) - metric(clean, every node of the set <- its corrupted value)

Positive = the set helps. The outcome of a single node is its exact effect (activation patching, noising).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.measure.joint_sets import draw_joint_sets
from circuits.measure.node_effects import other_run
from circuits.measure.patch_runs import PatchRuns
from circuits.measure.placed_nodes import PlacedNode
from circuits.measure.store import Pieces, question_of
from circuits.progress import Progress
from circuits.question.ablations import RunAblation
from circuits.question.question import Batch, Question
from circuits.results.provenance import Provenance

BLOCK = 32
"""Sets per block: measured together, stored together, and drawn from one seed."""


def draw_subsets(n_nodes: int, samples: int, share: float, seed: int, stream: str = "") -> Bool[Tensor, "sample node"]:
    """Joint sets (`circuits.measure.joint_sets`), then random sets that include every node with equal probability.

    In every 32 random sets each node occurs equally often, so no node is rare by chance. Nodes are drawn separately, so
    they are independent within a set. Set i depends only on the seed, the stream, the number of
    nodes and i, so a smaller sample is the beginning of a larger one.

    Args:
        n_nodes: how many nodes there are.
        samples: how many random sets; `JOINT_SETS` more come before them.
        share: the probability, rounded to the nearest of 1/32, 2/32, …, 31/32.
        seed: random seed.
        stream: a name that separates draws with the same seed.

    Raises:
        InputError: a share that is not between 0 and 1.
    """
    inside = round(BLOCK * whole_share(share))
    blocks = [torch.empty(0, n_nodes, dtype=torch.long)]
    for block in range(-(-samples // BLOCK)):
        generator = torch.Generator().manual_seed(Random(f"{seed} {stream} {block}").getrandbits(63))
        blocks.append(torch.rand(BLOCK, n_nodes, generator=generator).argsort(0).argsort(0))
    return torch.cat([draw_joint_sets(n_nodes, seed, stream), torch.cat(blocks)[:samples] < inside])


def whole_share(share: float) -> float:
    """The nearest share that is a whole number of 32nds.

    Raises:
        InputError: a share that is not between 0 and 1.

    >>> whole_share(0.1)
    0.09375
    """
    if not 0 < share < 1:
        raise InputError(f"share must be between 0 and 1, got {share}")
    return min(max(round(BLOCK * share), 1), BLOCK - 1) / BLOCK


def chosen_sets(nodes: Sequence[PlacedNode], included: Bool[Tensor, "sample node"]) -> list[list[PlacedNode]]:
    """The nodes of each set."""
    return [[nodes[i] for i in row.nonzero()[:, 0].tolist()] for row in included]


@dataclass(frozen=True, eq=False)
class SetRuns:
    """Measures a question's metric under sets of patched nodes.

    Attributes:
        question: model, pairs, metric and ablation.
        other: the source of corrupted values.
        pieces: the finished pieces.
    """

    question: Question
    other: RunAblation
    pieces: Pieces

    @classmethod
    def for_method(
        cls, question: Question, method: str, origin: Provenance, nodes: Sequence[PlacedNode], store: str | Path | None
    ) -> "SetRuns":
        """For a method whose results have the provenance `origin`.

        Raises:
            InputError: the ablation is not a `RunAblation`, or the store belongs to another question.
        """
        manifest = {"schema": 1, "question": question_of(origin), "nodes": [node.name for node in nodes]}
        return cls(question, other_run(question, method), Pieces(store, manifest))

    def outcomes(
        self, name: str, sets: Sequence[Sequence[PlacedNode]], progress: Progress | None = None
    ) -> tuple[Float[Tensor, "set prompt"], Float[Tensor, "2 prompt"]]:
        """The outcomes of the sets, and the metric of the clean and of the corrupted run; signed: higher = more of the
        behaviour.

        Args:
            name: the name of these sets in the store; the same name must mean the same sets.
            sets: the nodes of each set.
            progress: called with (sets × prompts done, total).
        """
        question, n = self.question, len(self.question.pairs)
        outcomes, ends = torch.zeros(len(sets), n, dtype=torch.float64), torch.zeros(2, n, dtype=torch.float64)
        done, total = 0, len(sets) * n
        with inference_state(question.model.bridge):
            for number, batch in enumerate(question.batches()):
                index = batch.index
                runs = None
                for block in _blocks(len(sets)):
                    key = f"{name}-batch-{number:05d}-block-{block.start // BLOCK:05d}"
                    piece = self.pieces.get(key)
                    if piece is None or len(piece) < 2 + len(block):
                        runs = runs or self._runs(batch, sets)
                        patches = [[node.patch(batch, question.pairs) for node in sets[i]] for i in block]
                        ran = [runs.clean[None], runs.corrupted[None], runs.metrics(patches)]
                        piece = torch.cat(ran).to("cpu", torch.float64)
                        self.pieces.put(key, piece)
                    ends[:, index] = piece[:2]
                    outcomes[block.start : block.stop, index] = piece[0] - piece[2 : 2 + len(block)]
                    done += len(block) * len(index)
                    if progress is not None:
                        progress(done, total)
        return outcomes * question.metric.sign, ends * question.metric.sign

    def _runs(self, batch: Batch, sets: Sequence[Sequence[PlacedNode]]) -> PatchRuns:
        sites = list(dict.fromkeys(node.site for nodes in sets for node in nodes))
        return PatchRuns.prepare(self.question, self.other, batch, sites)


def _blocks(n: int) -> Iterator[range]:
    return (range(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))
