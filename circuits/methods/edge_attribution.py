"""Edge attribution: every edge's effect from a few forward and backward passes.

For writer u, reader r and one pair of prompts,

    effect(u -> r) ≈ Σ_positions (clean_u - ablated_u) · ∂metric/∂input_r

where the gradient is taken at the clean run (EAP: Syed et al. 2023, 2310.10348), at the ablated embedding, at both
(clean-corrupted: Hanna et al. 2024), or averaged along the straight path of the input embedding from its ablated to its
clean value (EAP-IG: Hanna et al. 2024, 2403.17806, eq. 3). Positive = the edge helps. Reader inputs are taken before the norm, whose scale is live. We depart from EAP-IG in the quadrature: its code uses
the left rule, which never looks at the clean run; the midpoint rule is the default here, and `left` gives its numbers.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import Ablation
from circuits.engine.capture import Gradients, Writes, capture_gradients, reader_gradients, stack
from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.metrics import Metric, MetricFunction
from circuits.model import Model
from circuits.pairs import PromptPairs
from circuits.positions import place, position_axis
from circuits.provenance import provenance
from circuits.question import Batch, Progress, Question
from circuits.scores import EdgeScores, EdgeStatistics

GRADIENTS = ("clean", "corrupted", "clean-corrupted", "ig")
_OFFSETS: dict[str, float] = {"left": 0.0, "midpoint": 0.5, "right": 1.0}


def edge_attribution(
    model: Model,
    pairs: PromptPairs,
    *,
    gradient: str = "ig",
    steps: int = 5,
    quadrature: str = "midpoint",
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    positions: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> EdgeScores:
    """Scores every edge of the model's graph.

    Args:
        model: a loaded model.
        pairs: prompt pairs.
        gradient: `clean`: at the clean run (EAP); `corrupted`: where the embedding is ablated; `clean-corrupted`: the mean
            of both; `ig`: averaged along the embedding's path (EAP-IG).
        steps: points on that path; only for `ig`. With `steps=1` and the right rule, `ig` is EAP.
        quadrature: where the points lie on each of the `steps` equal pieces of the path from ablated to clean.
        metric: what is explained; None: the one the task prefers.
        ablation: what an edge's value is replaced by.
        positions: also split each effect by token position: `each`, `roles`, or names of roles; see `circuits.positions`.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (pairs done, pairs in all).

    Returns:
        Mean effects over the prompts in the metric's unit, with standard errors.

    Raises:
        InputError: unknown option, or a metric without a gradient where it is needed.
        PairsError: pairs that do not fit the model.
    """
    if gradient not in GRADIENTS:
        raise InputError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
    if quadrature not in _OFFSETS:
        raise InputError(f"quadrature must be one of {', '.join(_OFFSETS)}, got {quadrature!r}")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    question.metric.require_gradient("edge attribution", at_clean=gradient == "clean")
    options: dict[str, object] = {"gradient": gradient}
    if gradient == "ig":
        options |= {"steps": steps, "quadrature": quadrature}
    labels = position_axis(pairs, positions)
    statistics = EdgeStatistics(model.graph)
    with inference_state(model.bridge):
        for batch in question.batches():
            contraction = _Contraction(question, batch, labels)
            if gradient == "clean":
                _at_clean(question, batch, contraction)
            else:
                _along_path(question, batch, _points(gradient, steps, quadrature), contraction)
            contraction.give_to(statistics)
            if progress is not None:
                progress(statistics.n, len(pairs))
    return statistics.scores(provenance(question, "edge_attribution", options), labels)


def _points(gradient: str, steps: int, quadrature: str) -> list[float]:
    """Where on the path from the ablated (0) to the clean embedding (1) gradients are taken."""
    fixed = {"corrupted": [0.0], "clean-corrupted": [0.0, 1.0]}
    return fixed.get(gradient) or [(k + _OFFSETS[quadrature]) / steps for k in range(steps)]


def _at_clean(question: Question, batch: Batch, contraction: "_Contraction") -> None:
    gradients = _gradients(question, batch, None)
    contraction.difference = _difference(
        question, gradients.writes, question.replacement(batch.suffix, gradients.writes)
    )
    contraction.add(gradients, 1.0)


def _along_path(question: Question, batch: Batch, points: list[float], contraction: "_Contraction") -> None:
    _, clean = question.clean_run(batch.suffix)
    replacement = question.replacement(batch.suffix, clean)
    for gradients in _path_gradients(question, batch, clean, replacement, points):
        if contraction.difference is None:
            contraction.difference = _difference(question, clean, replacement)
        contraction.add(gradients, 1 / len(points))


def _path_gradients(
    question: Question, batch: Batch, clean: Writes, replacement: Writes, points: list[float]
) -> Iterator[Gradients]:
    for alpha in points:
        yield _gradients(question, batch, torch.lerp(replacement.embedding, clean.embedding, alpha))


def _gradients(question: Question, batch: Batch, embedding: Tensor | None) -> Gradients:
    return capture_gradients(
        question.model.bridge,
        question.model.architecture,
        batch.suffix.clean,
        batch.suffix.position,
        lambda logits: question.metric(logits, batch.targets),
        batch.suffix.cache(),
        embedding,
    )


def _difference(question: Question, clean: Writes, replacement: Writes) -> Float[Tensor, "batch writer pos d_model"]:
    return stack(question.model.architecture, clean.minus(replacement), question.sum_dtype)


class _Contraction:
    """Σ over positions and d_model of difference times gradient, for every edge of every prompt of a batch.

    Attributes:
        difference: clean minus ablated output of every writer; set before the first gradients come.
    """

    def __init__(self, question: Question, batch: Batch, labels: tuple[str, ...] | None) -> None:
        self.question, self.graph = question, question.model.graph
        self.difference: Float[Tensor, "batch writer pos d_model"] | None = None
        shape = (self.graph.n_writers, self.graph.n_readers)
        device, dtype = batch.suffix.clean.device, question.sum_dtype
        self.scores = torch.zeros(len(batch), *shape, device=device, dtype=dtype)
        self.places = None if labels is None else [place(label, batch, question.pairs) for label in labels]
        self.split = None if labels is None else torch.zeros(*shape, len(labels), device=device, dtype=dtype)

    def add(self, gradients: Gradients, weight: float) -> None:
        """Takes in one point's gradients."""
        assert self.difference is not None
        flat = self.difference.flatten(2)
        for readers, g in reader_gradients(self.question.model.architecture, gradients):
            n_writers = self.graph.reader_nodes[readers.start].n_writers
            g = g.to(flat.dtype)
            if weight != 1.0:
                g = g * weight
            self.scores[:, :n_writers, readers] += torch.bmm(flat[:, :n_writers], g.flatten(2).permute(1, 2, 0))
            for number, where in enumerate(self.places or ()):
                rows = (where >= 0).nonzero()[:, 0]
                at = (rows, slice(None, n_writers), where[rows])
                split = torch.einsum("bwd,bsd->ws", self.difference[at], g[:, rows, where[rows]].transpose(0, 1))
                assert self.split is not None
                self.split[:n_writers, readers, number] += split

    def give_to(self, statistics: EdgeStatistics) -> None:
        """Hands the finished batch on, signed so that positive = helps."""
        statistics.add(self.scores * self.question.metric.sign)
        if self.split is not None:
            statistics.add_positions(self.split * self.question.metric.sign)
