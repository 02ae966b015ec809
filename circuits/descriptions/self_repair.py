"""Self-repair: what later writers do about an ablated node (the Hydra effect: McGrath et al. 2023, 2307.15771; Rushing & Nanda 2024,
2402.15390).

Ablate node n and measure each writer's direct effect with the direction and the norm's scale of the clean run. Then

    total effect = direct effect - Σ_{others v} response_v + rest        response_v = direct_v(ablated) - direct_v(clean)

where the direct effect is direct_n(clean) - direct_n(ablated), and the rest is the change of the final norm's scale (and, for a metric that
is not linear in the logits, of its gradient). A later writer repairs if its response has the sign of the direct effect: it makes up for
what is lost. `repaired` is the share of the direct effect that others and the norm make up, 1 - total / direct. It says nothing about nodes
whose direct effect is near zero.

Nodes that back each other up need not write to the logits at all. So all nodes are also ablated together: a joint effect above the sum
of the single effects means redundancy, below it that they act in a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.final_writes import final_writes
from circuits.engine.hooks import inference_state
from circuits.engine.patch import Patch, patch_hooks
from circuits.errors import InputError
from circuits.graph.nodes import Site, select_sites
from circuits.measure.direct_parts import direct_parts, metric_direction
from circuits.measure.node_effects import other_run
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.answers import saw
from circuits.question.metrics import MetricLike
from circuits.question.question import Batch, Question
from circuits.results.provenance import Provenance, frozen, provenance
from circuits.shown import Shown

LEVEL = 0.05
PAIRWISE = 6
"""Up to so many nodes are also ablated two by two."""
SMALL = 1e-6
"""Responses below this share of the largest direct effect are rounding."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class SelfRepair(Shown):
    """What happens to other writers when nodes are ablated.

    Attributes:
        nodes: the ablated nodes.
        writers: all writers, in graph order.
        total, direct: effects of each node, per prompt.
        response: per node, each writer's change of direct effect; 0 for the node itself.
        joint: the effect of ablating all nodes together.
        pairs: (node, node) -> the effect of ablating both, per prompt; empty with many nodes.
        provenance: the origin.
    """

    nodes: tuple[str, ...]
    writers: tuple[str, ...]
    total: Float[Tensor, "node prompt"]
    direct: Float[Tensor, "node prompt"]
    response: Float[Tensor, "node writer prompt"]
    joint: Float[Tensor, " prompt"]
    pairs: Mapping[tuple[str, str], Float[Tensor, " prompt"]] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    @property
    def rest(self) -> Float[Tensor, "node prompt"]:
        """The part of each total effect that neither the node's write nor other writers' writes make: of the final norm."""
        return self.total - self.direct + self.response.sum(1)

    @property
    def redundancy(self) -> float:
        """Mean joint effect minus the sum of the mean single effects: positive if nodes back each other up."""
        return float(self.joint.mean() - self.total.mean(1).sum())

    def repaired(self, node: str) -> float:
        """1 - total / direct on means: the share of a node's direct effect that is made up for; NaN if that effect is 0."""
        row = self._row(node)
        direct = float(self.direct[row].mean())
        return 1 - float(self.total[row].mean()) / direct if direct else float("nan")

    def backups(self, node: str, level: float = LEVEL) -> list[tuple[str, float, float]]:
        """Writers that make up for a node: (writer, mean response, standard error), the strongest first.

        A one-sided Student test over the prompts for each writer, with Bonferroni's correction for their number: on normal responses
        with mean 0, the chance of naming any writer is at most `level`.

        Raises:
            InputError: a node that was not ablated, or fewer than three prompts.
        """
        from scipy.stats import t

        row, n = self._row(node), self.total.shape[1]
        if n < 3:
            raise InputError(f"backups need at least 3 prompts, got {n}")
        sign = 1.0 if float(self.direct[row].mean()) >= 0 else -1.0
        mean, stderr = self.response[row].mean(1), self.response[row].std(1) / n**0.5
        least = SMALL * max(float(self.direct.abs().max()), float(self.response.abs().max()), 1e-30)
        limit = float(t.ppf(1 - level / len(self.writers), n - 1)) * stderr
        named = [w for w in range(len(self.writers)) if sign * mean[w] > max(float(limit[w]), least)]
        named.sort(key=lambda w: -abs(float(mean[w])))
        return [(self.writers[w], float(mean[w]), float(stderr[w])) for w in named]

    def _row(self, node: str) -> int:
        if node not in self.nodes:
            raise InputError(f"{node!r} is not among the ablated nodes: {', '.join(self.nodes)}")
        return self.nodes.index(node)

    def rows(self) -> Sequence[dict[str, Any]]:
        """One row per node: means, with standard errors of total and direct effect, and the names of up to three backups."""
        n = self.total.shape[1]
        rows = []
        for i, node in enumerate(self.nodes):
            errors = [float(x[i].std()) / n**0.5 if n > 1 else float("nan") for x in (self.total, self.direct)]
            rows.append(
                {"node": node, "total": float(self.total[i].mean()), "total stderr": errors[0],
                 "direct": float(self.direct[i].mean()), "direct stderr": errors[1],
                 "others": float(self.response[i].sum(0).mean()), "norm": float(self.rest[i].mean()),
                 "backups": ", ".join(name for name, _, _ in (self.backups(node)[:3] if n > 2 else []))}
            )  # fmt: skip
        return rows

    def __repr__(self) -> str:
        return f"SelfRepair({len(self.nodes)} nodes, redundancy {self.redundancy:.4g})"


@on_model
def self_repair(
    model: Model,
    pairs: PromptPairs,
    nodes: str | Sequence[str],
    *,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> SelfRepair:
    """Ablates each node, and all together, and measures what every writer then adds to the metric.

    Takes one forward pass per node, one for all together and, for up to six nodes, one for each two.

    Args:
        model, pairs, ablation, batch_size, progress: see `circuits.activation_patching`.
        nodes: heads and MLPs, by name or group.
        metric: None: the task's preferred metric. It must have a gradient at the clean run.

    Raises:
        InputError: a node that is not a writer, a metric without a gradient, or an ablation without a run of its own.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    question.metric.require_gradient("self-repair")
    pairs.require_one_token("self_repair")
    sites = select_sites(model.graph, nodes, model.widths)
    wrong = [site.name for site in sites if site.name not in model.graph.writer_names]
    if wrong:
        raise InputError(f"self-repair is measured for writers (heads, MLPs, input), not for {wrong[0]!r}")
    twos = list(combinations(range(len(sites)), 2)) if len(sites) <= PAIRWISE else []
    groups = [*((i,) for i in range(len(sites))), tuple(range(len(sites))), *twos]
    n, writers = len(pairs), model.graph.writer_names
    effects = torch.zeros(len(groups), n, dtype=torch.float64)
    changes = torch.zeros(len(sites), len(writers), n, dtype=torch.float64)
    with inference_state(model.bridge):
        for batch in question.batches(progress=progress):
            effects[:, batch.index], changes[..., batch.index] = _on_batch(question, batch, sites, groups)
    effects, changes = effects * question.metric.sign, changes * question.metric.sign
    own = [writers.index(site.name) for site in sites]
    direct = -changes[torch.arange(len(sites)), own]
    changes[torch.arange(len(sites)), own] = 0
    names = tuple(site.name for site in sites)
    both = {(names[i], names[j]): effects[len(sites) + 1 + k] for k, (i, j) in enumerate(twos)}
    origin = provenance(question, "self_repair", {"nodes": list(names)})
    return SelfRepair(names, writers, effects[: len(sites)], direct, changes, effects[len(sites)], both, origin)


def _on_batch(
    question: Question, batch: Batch, sites: Sequence[Site], groups: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "group batch"], Float[Tensor, "node writer batch"]]:
    """Effects of ablating each group, and the changes of all writers' direct effects for each single node."""
    model, tokens = question.model, batch.suffix.clean_tokens
    _, values = other_run(question, "self-repair").values(model, batch.suffix, sites)
    clean = final_writes(model.architecture, tokens)
    saw(batch.suffix.batch, clean.logits)
    direction = metric_direction(model.architecture, clean, question.metric, batch.targets)
    before = direct_parts(model.architecture, clean, direction).of_writers(model.architecture)
    effects, changes = [], []
    for group in groups:
        hooks = patch_hooks(model.architecture, values, [[Patch(sites[i]) for i in group]])
        end = final_writes(model.architecture, tokens, hooks)
        effects.append((direction.metric - question.metric(end.logits, batch.targets)).cpu())
        if len(changes) < len(sites):
            changes.append(
                (direct_parts(model.architecture, end, direction).of_writers(model.architecture) - before).cpu()
            )
    return torch.stack(effects).double(), torch.stack(changes).double()
