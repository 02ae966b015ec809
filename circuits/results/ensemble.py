"""One score per edge from the scores of several methods (parallel ensembles: Mondorf et al. 2025, 2510.06811).

Scores of different methods have different sizes, so each one is normalised first, over the edges of the graph:

    scale      score / sqrt(mean of score²)
    rank       ± rank of |score| / number of edges, with the score's sign; ties have their mean rank, and 0 stays 0
    none       as it is

and then combined, edge by edge:

    mean       the mean of the normalised scores
    rank-mean  the mean of the signed ranks
    max        the score of the largest size, with its sign: an edge that any method finds strong
    min        the score of the smallest size, with its sign; 0 where two methods disagree on the sign: an edge that all find strong

The paper takes the mean, maximum and minimum of raw scores of EAP and its variants, and found the mean best. Its sequential ensemble
is `edge_pruning(start=…)`; its best, a hybrid, is the mean of that and the other scores. With `none`, the mean is that of the authors'
code (github.com/cisnlp/MIB-circuit-track), and so are `max` and `min` of absolute scores (`tests/golden/ensembles`); of signed scores,
that code takes the signed maximum and minimum.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.plain_torch import plain_torch
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import Provenance, frozen
from circuits.results.recorded import recorded
from circuits.stats.correlation import ranks

HOW = ("mean", "rank-mean", "max", "min")
NORMALISATIONS = ("scale", "rank", "none")


@plain_torch
def ensemble(scores: Sequence[EdgeScores | Circuit], how: str = "mean", *, normalise: str | None = None) -> EdgeScores:
    """Combines the scores of several methods.

    Args:
        scores: at least two scores of edges of one graph. A circuit scores 1 for its edges and 0 for others; one of trained masks, as
            returned by `edge_pruning` and `uniform_gradient_sampling`, the mean of that and of the probability that the edge's mask is open.
        how: `mean`, `rank-mean`, `max` or `min`, see `circuits.results.ensemble`.
        normalise: `scale`, `rank` or `none`; None: `rank` for `rank-mean`, otherwise `scale`.

    Returns:
        Scores without a unit. With `mean` and `scale` or `none`, of scores per prompt on the same prompts, the result has scores per
        prompt and standard errors, for these fixed scales; otherwise its standard errors are NaN.

    Raises:
        InputError: fewer than two scores, scores of different graphs or models, or an unknown option.
    """
    if how not in HOW:
        raise InputError(f"how must be one of {', '.join(HOW)}, got {how!r}")
    usual = "rank" if how == "rank-mean" else "scale"
    kind = usual if normalise is None else normalise
    if kind not in NORMALISATIONS:
        raise InputError(f"normalise must be one of {', '.join(NORMALISATIONS)}, got {normalise!r}")
    if how == "rank-mean" and kind != "rank":
        raise InputError(f"rank-mean is the mean of ranks; with normalise={normalise!r} use how='mean'")
    members = [_scored(one) for one in scores]
    _check(members)
    graph, n = members[0].graph, max(one.n_prompts for one in members)
    normalised = torch.stack([_normalised(one, kind) for one in members])
    values = _combined(normalised, "mean" if how == "rank-mean" else how)
    kept = torch.stack([one.candidates for one in members]).any(0)
    origin = _origin(members, {"how": how, "normalise": kind})
    rows = _rows(members, kind) if how == "mean" else None
    stderr = torch.full_like(values, torch.nan)
    if rows is not None and len(rows) > 1:
        stderr[graph.edge_mask] = rows.std(0) / len(rows) ** 0.5
        stderr[~graph.edge_mask] = 0.0
    return EdgeScores(
        graph, values, stderr, n, origin, per_prompt=None if rows is None else rows.float(),
        kept=None if bool((kept == graph.edge_mask).all()) else kept,
    )  # fmt: skip


def _scored(one: EdgeScores | Circuit) -> EdgeScores:
    if isinstance(one, EdgeScores):
        return one
    if not isinstance(one, Circuit):
        raise InputError(f"an ensemble takes EdgeScores or circuits, not {type(one).__name__}")
    values = one.mask.double()
    kept = recorded(one.provenance).kept_probability
    if kept is not None and one.scores is not None and not bool(one.scores[one.graph.edge_mask].isnan().any()):
        values = (values + kept(one.scores.nan_to_num().double()) * one.graph.edge_mask) / 2
    return EdgeScores(one.graph, values, torch.full_like(values, torch.nan), 1, one.provenance)


def _check(members: Sequence[EdgeScores]) -> None:
    if len(members) < 2:
        raise InputError(f"an ensemble needs at least two scores, got {len(members)}")
    for one in members[1:]:
        if one.graph != members[0].graph:
            raise InputError(f"the scores belong to different graphs ({members[0].graph}, {one.graph})")
    if len({one.provenance["weights_sha256"] for one in members if "weights_sha256" in one.provenance}) > 1:
        raise InputError("the scores belong to different models: their weights differ")


def _normalised(one: EdgeScores, kind: str) -> Float[Tensor, "writer reader"]:
    values = one.values.double() * one.candidates
    if kind == "rank":
        mask = one.graph.edge_mask
        ranked = torch.zeros_like(values)
        ranked[mask] = ranks(values[mask].abs()[:, None])[:, 0] / max(1, int(mask.sum()))
        return ranked * values.sign()
    return values / _scale(one, kind)


def _scale(one: EdgeScores, kind: str) -> float:
    """The root mean square over the graph's edges; 1 if all scores are 0."""
    if kind == "none":
        return 1.0
    values = one.values.double() * one.candidates
    return float(values[one.graph.edge_mask].square().mean().sqrt()) or 1.0


def _combined(normalised: Float[Tensor, "member writer reader"], how: str) -> Float[Tensor, "writer reader"]:
    if how == "mean":
        return normalised.mean(0)
    sizes = normalised.abs()
    at = sizes.argmax(0) if how == "max" else sizes.argmin(0)
    values = normalised.gather(0, at[None])[0]
    if how == "min":
        values = values * (normalised.sign() == normalised[0].sign()).all(0)
    return values


def _rows(members: Sequence[EdgeScores], kind: str) -> Float[Tensor, "row edge"] | None:
    """The mean of the normalised scores per prompt; None if some member has none, or they are of different prompts."""
    if kind == "rank" or any(one.per_prompt is None or one.group != 1 for one in members):
        return None
    prompts = {(one.provenance.get("pairs_sha256"), one.n_prompts) for one in members}
    if len(prompts) > 1 or None in {digest for digest, _ in prompts}:
        return None
    scaled = [
        one.per_prompt.double() * one.candidates[one.graph.edge_mask] / _scale(one, kind)
        for one in members
        if one.per_prompt is not None
    ]
    return torch.stack(scaled).mean(0)


def _origin(members: Sequence[EdgeScores], options: dict[str, str]) -> Provenance:
    """What all members agree on, and what each of them is."""
    first = members[0].provenance
    shared = {
        name: value
        for name, value in first.items()
        if name not in ("method", "options", "of") and all(one.provenance.get(name) == value for one in members)
    }
    members_origin = [
        {
            name: one.provenance.get(name)
            for name in ("method", "options", "of", "metric", "ablation", "n_pairs", "task")
        }
        for one in members
    ]
    return frozen({"method": "ensemble", "options": options, **shared, "of": members_origin})
