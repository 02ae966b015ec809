"""Methods of the main job that score nodes: patched exactly, estimated from gradients, or fitted to random ablations."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from circuits.errors import AttributionWarning
from circuits.methods.activation_patching import activation_patching
from circuits.methods.atp_star import atp_star
from circuits.methods.attribution_patching import attribution_patching
from circuits.methods.coar import coar
from circuits.methods.path_patching import path_patching
from circuits.results.node_scores import NodeScores
from circuits.runs.job import Job
from circuits.runs.result import NodeDiscovery


def activation_patching_job(
    job: Job,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] = "all",
    direction: str = "denoising",
    window: int = 1,
    store: str | Path | None = None,
) -> NodeDiscovery:
    """`circuits.activation_patching`; with a `store`, a killed run goes on."""
    options = {"nodes": nodes, "positions": positions, "direction": direction, "window": window}
    method = partial(activation_patching, store=store, workers=job.workers)
    return _scored(job, "activation-patching", ("patching", "patching nodes"), method, options)


def path_patching_job(
    job: Job,
    *,
    receivers: Sequence[str],
    senders: str | Sequence[str] = "heads+mlps",
    together: bool = False,
    mlps: str = "frozen",
    inputs: str = "shifted",
) -> NodeDiscovery:
    """`circuits.path_patching`."""
    options = {"receivers": receivers, "senders": senders, "together": together, "mlps": mlps, "inputs": inputs}
    return _scored(job, "path-patching", ("patching", "patching paths"), path_patching, options)


def attribution_patching_job(
    job: Job, *, nodes: str | Sequence[str] = "heads+mlps", positions: str | Sequence[str] = "all"
) -> NodeDiscovery:
    """`circuits.attribution_patching`: signed estimates."""
    job.question.metric.require_gradient("method attribution-patching", at_clean=True)
    options = {"nodes": nodes, "positions": positions}
    return _scored(job, "attribution-patching", ("attribution", "scoring nodes"), attribution_patching, options)


def atp_star_job(
    job: Job,
    *,
    nodes: str | Sequence[str] | None = None,
    positions: str | Sequence[str] = "each",
    qk_fix: bool = True,
    grad_drop: bool = True,
) -> NodeDiscovery:
    """`circuits.atp_star`: contributions, without sign."""
    job.question.metric.require_gradient("method atp-star", at_clean=True)
    options = {"nodes": nodes, "positions": positions, "qk_fix": qk_fix, "grad_drop": grad_drop}
    return _scored(job, "atp-star", ("attribution", "scoring nodes"), atp_star, options)


def coar_job(
    job: Job,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    samples: int = 2000,
    alpha: float = 0.1,
    fit: str = "least_squares",
    store: str | Path | None = None,
) -> NodeDiscovery:
    """`circuits.coar`; with a `store`, a killed run goes on."""
    options = {"nodes": nodes, "samples": samples, "alpha": alpha, "fit": fit}
    question = job.question
    with job.timed("sampling", "ablating components") as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", AttributionWarning)  # it becomes a note
        scores = coar(
            question.model, question.pairs, seed=job.seed, store=store, workers=job.workers, progress=progress,
            **options, **job.asked,
        )  # fmt: skip
    notes = () if scores.statement is None else (scores.statement,)
    return NodeDiscovery(scores, {"method": "coar", **options, "seed": job.seed}, job.seconds, notes=notes)


def _scored(
    job: Job,
    name: str,
    stage: tuple[str, str],
    method: Callable[..., NodeScores],
    options: dict[str, Any],
) -> NodeDiscovery:
    question = job.question
    asked = options | ({"positions": None} if options.get("positions") == "all" else {})
    with job.timed(*stage) as progress:
        scores = method(question.model, question.pairs, progress=progress, **job.asked, **asked)
    return NodeDiscovery(
        scores, {"method": name, **options, "seed": job.seed}, job.seconds, _tokens(job, scores.positions)
    )


def _tokens(job: Job, positions: Sequence[str] | None) -> tuple[str, ...] | None:
    """What to write under each position: the token if all prompts have the same there, and its role."""
    if positions is None or not all(place.isdecimal() for place in positions):
        return None
    pairs, tokenizer = job.question.pairs, job.question.model.tokenizer
    labels = []
    for i in map(int, positions):
        ids = {prompt[i] for prompt in pairs.clean}
        roles = [role for role in pairs.roles[0] if all(r.get(role) == i for r in pairs.roles)]
        token = str(i) if len(ids) > 1 or tokenizer is None else tokenizer.decode(list(ids)).strip() or repr(" ")
        labels.append(f"{token} ({', '.join(roles)})" if roles else token)
    return tuple(labels)
