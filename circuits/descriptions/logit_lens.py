"""The logit lens: what the model would predict if the residual stream ended after each layer (nostalgebraist 2020).

    logits(layer) = the model's own final norm and unembedding, of the stream after that layer, at the answer position

The norm takes the scale of the shortened stream, unlike in `circuits.direct_effects`, whose sums over layers keep the scale of the
whole run. Early layers write in directions that later ones turn, so a lens that sees nothing yet does not show that nothing is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.descriptions.tokens import token_texts
from circuits.engine.architecture import Architecture
from circuits.engine.check import tolerance
from circuits.engine.hooks import Hook, inference_state, run
from circuits.engine.unembedding import logits_of
from circuits.errors import InputError, ModelError
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.metrics import METRICS, MetricLike
from circuits.question.question import Batch, Question
from circuits.results.provenance import Provenance, frozen, provenance
from circuits.shown import Shown, from_above

MOST_TOP = 1000


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Shown):
    """The predictions of the residual stream before the first layer and after each.

    Attributes:
        stages: `input`, then `layer 0` and so on: the stream after that layer.
        answer, distractor: mean logit of the right and of the wrong answers; NaN without any.
        metric: the metric of these logits, signed like the behaviour.
        rank: of the best answer among all tokens, 1 = the first.
        top: ids of the tokens with the largest logits, the largest first.
        top_texts: their texts.
        provenance: the origin.
    """

    stages: tuple[str, ...]
    answer: Float[Tensor, "stage prompt"]
    distractor: Float[Tensor, "stage prompt"]
    metric: Float[Tensor, "stage prompt"]
    rank: Float[Tensor, "stage prompt"]
    top: Int[Tensor, "stage prompt k"]
    top_texts: tuple[tuple[tuple[str, ...], ...], ...]
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def rows(self) -> Sequence[dict[str, Any]]:
        """One row per stage: means over the prompts, standard error of the metric, and the first prompt's top token."""
        n = self.metric.shape[1]
        spread = self.metric.std(1) / n**0.5 if n > 1 else torch.full((len(self.stages),), torch.nan)
        return [
            {
                "stage": stage, "answer": float(self.answer[i].mean()), "distractor": float(self.distractor[i].mean()),
                "metric": float(self.metric[i].mean()), "stderr": float(spread[i]), "median rank": float(self.rank[i].median()),
                "top token of prompt 0": self.top_texts[i][0][0],
            }
            for i, stage in enumerate(self.stages)
        ]  # fmt: skip

    def plot(self) -> Any:
        """Mean logits of answers and distractors by layer, as a plotly figure."""
        return from_above("plot")(self)

    def __repr__(self) -> str:
        return f"LogitLens({len(self.stages)} stages, {self.metric.shape[1]} prompts)"


@on_model
def logit_lens(
    model: Model,
    pairs: PromptPairs,
    *,
    top: int = 5,
    metric: MetricLike | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> LogitLens:
    """Reads the residual stream at the answer position after each layer, on the clean prompts.

    Args:
        model, pairs, batch_size, progress: see `circuits.direct_effects`.
        top: number of tokens with the largest logits to keep.
        metric: None: the task's preferred metric.

    Raises:
        InputError: a number of tokens below one, or above the vocabulary.
        ModelError: the final norm and the unembedding do not give the model's own logits.
    """
    pairs.require_one_token("logit_lens")
    question = Question.ask(model, pairs, metric, "zero", batch_size).again(whole_prompts=True)
    d_vocab, n, n_stages = int(model.bridge.cfg.d_vocab), len(pairs), model.graph.n_layers + 1
    if not 1 <= top <= min(MOST_TOP, d_vocab):
        raise InputError(f"top must be between 1 and {min(MOST_TOP, d_vocab)}, got {top}")
    numbers = torch.full((4, n_stages, n), torch.nan, dtype=torch.float64)
    best = torch.zeros(n_stages, n, top, dtype=torch.long)
    with inference_state(model.bridge), torch.no_grad():
        for batch in question.batches(progress=progress):
            logits, streams = _streams(model.architecture, batch)
            for stage, stream in enumerate(streams):
                seen = logits if stage == n_stages - 1 else lens(model.architecture, stream)
                numbers[:, stage, batch.index] = _read(question, batch, seen)
                best[stage, batch.index] = seen.topk(top).indices.cpu()
    stages = ("input", *(f"layer {layer}" for layer in range(model.graph.n_layers)))
    texts = tuple(tuple(token_texts(model, prompt) for prompt in stage) for stage in best.tolist())
    origin = provenance(question, "logit_lens", {"top": top})
    answer, distractor, values, rank = numbers.unbind()
    return LogitLens(stages, answer, distractor, values, rank, best, texts, origin)


def _streams(architecture: Architecture, batch: Batch) -> tuple[Tensor, list[Float[Tensor, "batch d_model"]]]:
    tokens, streams = batch.suffix.clean_tokens, []
    rows = torch.arange(len(tokens), device=tokens.tokens.device)

    def keep(x: Tensor) -> None:
        streams.append(x[rows.to(x.device), tokens.position.to(x.device)])

    hooks: list[Hook] = [(point, keep) for point in (*[b.resid_pre for b in architecture.blocks], architecture.final)]
    logits = run(architecture, tokens, hooks)
    error = float((lens(architecture, streams[-1]) - logits).abs().max() / logits.abs().max().clamp(min=1e-30))
    if not error <= tolerance(logits.dtype):
        raise ModelError(
            f"the lens does not give this model's own logits after the last layer (off by {error:.2g} of the largest)"
        )
    return logits, streams


def lens(architecture: Architecture, stream: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_vocab"]:
    """Logits of a stream, by the model's final norm, unembedding, and soft cap or factor of the logits."""
    return logits_of(architecture, architecture.final_norm(stream.to(architecture.bridge.unembed.W_U.device)))


def _read(question: Question, batch: Batch, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "number batch"]:
    """Mean logit of answers and of distractors, the metric, and the rank of the best answer."""
    wide, targets = logits.to(torch.promote_types(logits.dtype, torch.float32)), batch.targets
    means = []
    for ids, mask in ((targets.answers, targets.answers_mask), (targets.distractors, targets.distractors_mask)):
        means.append((wide.gather(1, ids) * mask).sum(1) / mask.sum(1))
    metric = question.metric(wide, targets) * question.metric.sign
    return torch.stack([*means, metric, METRICS["rank"](wide, targets) + 1]).to("cpu", torch.float64)
