"""The main job: from a model and pairs to scored edges and a tested circuit, or to scored nodes.

The command line parses and prints; everything it does is here, so that a notebook can do the same in one call. What another
method takes is refused, never ignored.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from circuits.errors import InputError
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import Ablation, Gaussian, Resample, get_ablation
from circuits.question.answers import watched
from circuits.question.doubts import about_answers, collected, doubt, same_up_to_answer
from circuits.question.question import Question, look
from circuits.runs.edge_jobs import edge_attribution_job, exact_edges_job, information_flow_job
from circuits.runs.job import Job
from circuits.runs.node_jobs import (
    activation_patching_job,
    atp_star_job,
    attribution_patching_job,
    coar_job,
    path_patching_job,
)
from circuits.runs.option_checks import check_values
from circuits.runs.result import Discovery, NodeDiscovery
from circuits.runs.search_jobs import acdc_job, edge_pruning_job
from circuits.workers.workers import Workers

LARGEST_NOISE_SEED = 2**40
"""Each pair has a seed of its own, a million times this one's and its number, in 64 bits."""


@on_model
def discover(
    model: Model,
    pairs: PromptPairs,
    *,
    method: str = "eap-ig",
    metric: str | None = None,
    ablation: str | Ablation | None = None,
    noise_tokens: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    stage: StageProgress = silent,
    workers: Workers | None = None,
    test: bool = True,
    **options: Any,
) -> Discovery | NodeDiscovery:
    """Scores all edges, chooses a circuit and tests it; or scores nodes.

    Args:
        model, pairs: what is asked.
        method: one of `METHODS`.
        metric: None: the one the task prefers.
        ablation: what replaces an ablated value; None: the method's own, `zero` for `coar` and else `interchange`.
        noise_tokens: roles whose embeddings `gaussian` ablation disturbs; None: the tokens that differ.
        seed: of the random circuits, of the noise and of resampling.
        batch_size: pairs at a time; None: chosen by size.
        stage: progress reporting.
        test: whether the circuit is tested; else its faithfulness is NaN.
        workers: who measures, for methods that can be divided; None: this process.
        options: the method's own, see `METHODS`.

    Raises:
        InputError: an option that cannot be used, or that belongs to another method.

    Warns:
        PairsWarning: the model does not do what the pairs ask, or the pairs say little; also in `warnings` of the result.
    """
    check_options(method, options)
    chosen_method = METHODS[method]
    if workers is not None:
        check_divided(method)
    chosen = choose_ablation(ablation or chosen_method.ablation, noise_tokens, seed)
    with collected() as warnings, watched(len(pairs), model.d_vocab) as answers:
        question = Question.ask(model, pairs, metric, chosen, batch_size)
        job = Job(question, batch_size, seed, stage, {}, test=test, workers=workers)
        found = chosen_method.job(job, **chosen_method.fixed, **options)
        if test:
            look(question)
            doubt(about_answers(model, pairs, answers))
    doubt(warnings)
    differ = not question.ablation.needs_difference or len(same_up_to_answer(pairs)) < len(pairs)
    seen = answers if answers.complete else None
    return replace(found, answers=seen, warnings=tuple(warnings), pairs_differ=differ)


def check_options(method: str, options: dict[str, Any]) -> None:
    """Whether these options belong to this method and may have these values; asked before a model is loaded.

    Raises:
        InputError: see `check_names` and `circuits.runs.option_checks.check_values`.
    """
    check_names(method, options)
    check_values(method, options)


def check_names(method: str, options: dict[str, Any]) -> None:
    """Whether these options belong to this method.

    Raises:
        InputError: there is no such method, an option is foreign to it, or one that it needs is missing.
    """
    if method not in METHODS:
        near = get_close_matches(method, METHODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"there is no method {method!r}{hint} (one of {', '.join(METHODS)})")
    known = METHODS[method].options
    spelled = ", ".join(name.replace("_", "-") for name in known)
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
            raise InputError(f"method {method} has no option {name.replace('_', '-')!r}; its own: {spelled}{hint}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and not options.get(name):
            raise InputError(f"method {method} needs the option {name.replace('_', '-')!r}")
    if method == "acdc" and ("threshold" in options) == ("edges" in options):
        raise InputError("method acdc needs a threshold, or a number of edges, and not both")


def check_divided(method: str) -> None:
    """Whether a run of this method can be divided among workers.

    Raises:
        InputError: it cannot.
    """
    if not METHODS[method].divided:
        divided = ", ".join(name for name, of in METHODS.items() if of.divided)
        raise InputError(
            f"a run of method {method} is not divided among workers (those of {divided} are); a study divides its runs among "
            "them: circuits study run --on ray"
        )


def choose_ablation(ablation: str | Ablation, noise_tokens: Sequence[str] | None = None, seed: int = 0) -> Ablation:
    """The ablation of that name, with its options.

    Raises:
        InputError: no such ablation, or tokens to disturb where no noise is asked for.
    """
    chosen = get_ablation(ablation)
    if noise_tokens is not None and not isinstance(chosen, Gaussian):
        raise InputError(f"noise-tokens belong to gaussian ablation, not to {chosen.name}")
    if chosen is ablation and noise_tokens is None:
        return chosen
    if isinstance(chosen, Gaussian):
        if seed >= LARGEST_NOISE_SEED:
            raise InputError(f"gaussian ablation takes seeds below {LARGEST_NOISE_SEED}, got {seed}")
        return Gaussian(tuple(noise_tokens or ()), chosen.scale, seed)
    return Resample(seed) if isinstance(chosen, Resample) else chosen


@dataclass(frozen=True)
class Method:
    """A method of the main job.

    Attributes:
        job: does it; its keyword arguments are the method's options, and those without a default must be given.
        fixed: options that the method decides.
        refused: options that mean nothing to it.
        ablation: by default.
        divided: whether one run can be divided among workers.
    """

    job: Callable[..., Discovery | NodeDiscovery]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    ablation: str = "interchange"
    divided: bool = False

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """What may be asked of it."""
        parameters = inspect.signature(self.job).parameters
        hidden = {"method", *self.fixed, *self.refused}
        return {name: p for name, p in parameters.items() if p.kind == p.KEYWORD_ONLY and name not in hidden}

    def keeps_record(self, options: Mapping[str, Any]) -> bool:
        """Whether a run with these options can keep a record (option `store`) and go on from it when it was killed."""
        return "store" in self.options and (self.job is not acdc_job or options.get("edges") is None)


METHODS: dict[str, Method] = {
    "eap": Method(edge_attribution_job, {"method": "eap", "gradient": "clean"}, ("steps", "quadrature", "attention")),
    "eap-ig": Method(edge_attribution_job, {"method": "eap-ig", "gradient": "ig"}, ("attention",)),
    "edge-attribution": Method(edge_attribution_job),
    "information-flow": Method(information_flow_job),
    "acdc": Method(acdc_job),
    "edge-pruning": Method(edge_pruning_job),
    "exact-edges": Method(exact_edges_job, divided=True),
    "activation-patching": Method(activation_patching_job, divided=True),
    "path-patching": Method(path_patching_job),
    "attribution-patching": Method(attribution_patching_job),
    "atp-star": Method(atp_star_job),
    "coar": Method(coar_job, ablation="zero", divided=True),
}
