"""What features of dictionaries are about: the tokens that their decoder rows promote, and the prompts on which they are most active.

The logits of a direction are `(w * W_dec[i]) W_U`, with w the weight of the final norm and without its scale (nostalgebraist's logit lens);
a feature of `hook_z` writes through `W_O`. They say what the feature promotes directly, not what it does through later layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.output_values import weighted
from circuits.descriptions.tokens import token_texts
from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.insert import with_dictionaries
from circuits.engine.hooks import NO_LOGITS, TokenBatch, inference_state, run
from circuits.engine.inserted import records
from circuits.engine.insertion import Key
from circuits.graph.nodes import Site, find_site
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.prompts.pairs import PromptPairs

PROMOTED, EXAMPLES = 8, 4
AT_ONCE = 64
"""Features whose logits are computed together."""


@dataclass(frozen=True)
class Example:
    """A prompt on which a feature is active.

    Attributes:
        pair: number of the pair.
        tokens: of the clean prompt, as text.
        activations: of the feature at each token.
    """

    pair: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class FeatureFacts:
    """What is known of one feature.

    Attributes:
        promotes, suppresses: tokens whose logits its decoder row raises and lowers most.
        examples: the clean prompts with the largest activations, largest first; none where it is never active.
        n_active: number of clean prompts on which it is active at some token.
    """

    promotes: tuple[str, ...]
    suppresses: tuple[str, ...]
    examples: tuple[Example, ...]
    n_active: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values; activations to four digits."""
        return {
            "promotes": list(self.promotes), "suppresses": list(self.suppresses), "active": self.n_active,
            "examples": [
                {"pair": one.pair, "tokens": list(one.tokens), "activations": [float(f"{x:.4g}") for x in one.activations]}
                for one in self.examples
            ],
        }  # fmt: skip


@on_model
def feature_facts(
    model: Model,
    pairs: PromptPairs,
    features: Sequence[str],
    *,
    dictionaries: Sequence[Dictionary] = (),
    n_examples: int = EXAMPLES,
) -> dict[str, FeatureFacts]:
    """What features promote, and on which of the clean prompts they are most active.

    Args:
        model: a loaded model.
        pairs: the prompts.
        features: names, `f:m3.1201`.
        dictionaries: the dictionaries of these features.
        n_examples: prompts for each feature.

    Raises:
        InputError: an unknown feature, or a dictionary that does not fit the model.
    """
    inserted = with_dictionaries(model, dictionaries) if dictionaries else model
    sites = [
        find_site(inserted.graph, name, inserted.widths) for name in dict.fromkeys(features) if name.startswith("f:")
    ]
    words, active = _promoted(inserted, sites), _activations(inserted, pairs, sites)
    return {
        site.name: FeatureFacts(*words[site.name], *_examples(model, pairs, active[site.name], n_examples))
        for site in sites
    }


def _activations(model: Model, pairs: PromptPairs, sites: Sequence[Site]) -> dict[str, list[Tensor]]:
    """Each feature's activations on each clean prompt."""
    found: dict[str, list[Tensor]] = {site.name: [torch.zeros(0)] * len(pairs) for site in sites}
    keys: list[Key] = list(dict.fromkeys((site.layer, site.point) for site in sites))
    if not keys:
        return found
    with inference_state(model.bridge), torch.no_grad():
        for batch in pairs.batches(8, forced=False):
            here = batch.to(model.device)
            seen: dict[Key, Tensor] = {}
            hooks = records(model.architecture, keys, seen.__setitem__)
            run(model.architecture, TokenBatch(here.clean, here.position), hooks, NO_LOGITS)
            for site in sites:
                for i, row in zip(batch.index.tolist(), seen[site.layer, site.point][..., site.index], strict=True):
                    found[site.name][i] = row.to("cpu", torch.float32)
    return found


def _examples(model: Model, pairs: PromptPairs, active: Sequence[Tensor], n: int) -> tuple[tuple[Example, ...], int]:
    largest = [float(row.max()) for row in active]
    order = [i for i in sorted(range(len(active)), key=lambda i: -largest[i]) if largest[i] > 0]
    shown = tuple(Example(i, token_texts(model, pairs.clean[i]), tuple(active[i].tolist())) for i in order[:n])
    return shown, len(order)


def _promoted(model: Model, sites: Sequence[Site]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    words: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for start in range(0, len(sites), AT_ONCE):
        chosen = sites[start : start + AT_ONCE]
        rows = weighted(model.architecture.final_norm, torch.stack([_direction(model, site) for site in chosen]))
        weight = model.bridge.unembed.W_U
        logits = rows.to(weight.device, weight.dtype).detach() @ weight.detach()
        for site, row in zip(chosen, logits, strict=True):
            n = min(PROMOTED, len(row))
            words[site.name] = (
                token_texts(model, row.topk(n).indices.tolist()), token_texts(model, (-row).topk(n).indices.tolist()),
            )  # fmt: skip
    return words


def _direction(model: Model, site: Site) -> Float[Tensor, " d_model"]:
    """What a feature writes to the stream."""
    place = site.point.rpartition(":")[2]
    row = model.architecture.inserted[place].coder.W_dec[site.index]
    if place[0] != "z":
        return row
    return row @ model.architecture.blocks[site.layer].output_projection.flatten(0, 1).to(row.dtype)
