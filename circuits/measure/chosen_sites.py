"""The nodes that a call names, with the active features of inserted dictionaries.

The group `features` stands for the errors and skips of all dictionaries, and for the features that are not 0 at some token of the clean
prompts (behind their common prefix with the corrupted ones, where that is skipped) or of the run that replaces them. Every other
feature has an effect of exactly 0, so nothing is lost.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.engine.hooks import Hook, TokenBatch, inference_state, run
from circuits.engine.inserted import records
from circuits.engine.insertion import Key
from circuits.graph.groups import groups_in
from circuits.graph.nodes import Site, select_sites
from circuits.model import Model
from circuits.question.ablations import OverReference, RunAblation
from circuits.question.question import Question


def chosen_sites(question: Question, nodes: str | Sequence[str]) -> tuple[Site, ...]:
    """The sites of some nodes; see `circuits.graph.nodes.select_sites`.

    Raises:
        InputError: an unknown node or group.
    """
    model = question.model
    widths = model.widths
    if isinstance(nodes, str) and "features" in groups_in(nodes) and widths.places:
        active = active_features(question)
        places = [replace(one, active=tuple(active[one.name].nonzero()[:, 0].tolist())) for one in widths.places]
        widths = replace(widths, places=tuple(places))
    return select_sites(model.graph, nodes, widths)


def active_features(question: Question) -> dict[str, Bool[Tensor, " feature"]]:
    """By place, whether each feature is active at any token of the clean prompts, of the ablation's other run, or of its reference."""
    model, ablation = question.model, question.ablation
    active = _Active(model)
    with inference_state(model.bridge), torch.no_grad():
        for batch in question.batches():
            active.see(batch.suffix.clean_tokens)
            if isinstance(ablation, RunAblation):
                active.see(*ablation.run(model, batch.suffix))
        if isinstance(ablation, OverReference) and ablation.reference is not None:
            for batch in ablation.reference.batches(question.batch_size, forced=False):
                here = batch.to(model.device)
                active.see(TokenBatch(here.clean, here.position))
    return active.any


class _Active:
    """Which features were active in any run.

    Attributes:
        any: by place.
    """

    def __init__(self, model: Model) -> None:
        self.architecture = model.architecture
        self.any = {place.name: torch.zeros(place.n_features, dtype=torch.bool) for place in model.places}
        self.places = {one.key("f"): one.place for one in self.architecture.inserted.values()}

    def see(self, tokens: TokenBatch, hooks: Sequence[Hook] = ()) -> None:
        run(self.architecture, tokens, [*hooks, *records(self.architecture, self.places, self._keep)])

    def _keep(self, key: Key, value: Tensor) -> None:
        self.any[self.places[key]] |= (value != 0).flatten(0, -2).any(0).cpu()
