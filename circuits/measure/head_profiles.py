"""What each head does, in a form that can be compared between models: where it looks, and what it adds to the metric directly.

*Attention*: from each landmark of the prompt (the answer's position, and the last token of each role that all prompts have) to each landmark, to the first
token, to the previous token and to itself, on each clean prompt. *Direct effect*: the score of the edge from the head to `logits`,
divided by the mean size of the largest such score, if scores are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.hooks import Hook, TokenBatch, inference_state, run
from circuits.errors import ModelError
from circuits.model import Model
from circuits.prompts.pair import bounds
from circuits.prompts.pairs import PromptPairs
from circuits.results.edge_scores import EdgeScores

PLACES = ("first token", "previous token", "itself")


@dataclass(frozen=True, eq=False)
class HeadProfiles:
    """Profiles of all heads.

    Attributes:
        heads: their names.
        features: names of the features.
        values: the features of each head on each prompt.
    """

    heads: tuple[str, ...]
    features: tuple[str, ...]
    values: Float[Tensor, "prompt head feature"]


def landmarks(*sets: PromptPairs) -> tuple[str, ...]:
    """`answer` and the roles that every pair of all sets has."""
    common = [set(roles) for pairs in sets for roles in pairs.roles]
    shared = set.intersection(*common)
    return ("answer", *(name for name in sets[0].roles[0] if name in shared and name != "end"))


def head_profiles(
    model: Model, pairs: PromptPairs, names: Sequence[str], scores: EdgeScores | None = None
) -> HeadProfiles:
    """The profiles of all heads of a model.

    Args:
        model: a model that shows its attention patterns.
        pairs: the prompts.
        names: landmarks, see `landmarks`.
        scores: scores of these pairs with effects per prompt, for direct effects.

    Raises:
        ModelError: the model does not show its attention patterns.
    """
    graph = model.graph
    values = torch.stack([_attention(model, pairs, i, names) for i in range(len(pairs))])
    features = [f"{start} to {end}" for start in names for end in (*PLACES, *names)]
    heads = [writer for writer in graph.writer_nodes if writer.kind == "head"]
    if scores is not None and scores.per_prompt is not None and len(scores.per_prompt) == len(pairs):
        index = torch.full(graph.edge_mask.shape, -1)
        index[graph.edge_mask] = torch.arange(graph.n_edges)
        direct = scores.per_prompt.double()[:, [int(index[graph.writer_index(h.name), -1]) for h in heads]]
        values = torch.cat([values, (direct / direct.mean(0).abs().max().clamp(min=1e-30))[:, :, None]], 2)
        features.append("direct effect")
    return HeadProfiles(tuple(head.name for head in heads), tuple(features), values)


def _attention(model: Model, pairs: PromptPairs, i: int, names: Sequence[str]) -> Float[Tensor, "head feature"]:
    found: dict[int, Tensor] = {}
    hooks: list[Hook] = []
    for layer in range(model.graph.n_layers):
        point = model.bridge.hook_dict.get(f"blocks.{layer}.attn.hook_pattern")
        if point is None:
            raise ModelError(f"layer {layer} of {model.name} does not show its attention pattern")
        hooks.append((point, lambda value, layer=layer: found.__setitem__(layer, value[0].double().cpu())))
    tokens = torch.tensor([pairs.clean[i]], device=model.device)
    with inference_state(model.bridge), torch.no_grad():
        run(model.architecture, TokenBatch(tokens, torch.tensor([tokens.shape[1] - 1], device=model.device)), hooks)
    pattern = torch.cat([found[layer] for layer in range(model.graph.n_layers)])  # [head, query, key]
    at = [pairs.positions[i] if name == "answer" else bounds(pairs.roles[i][name])[1] - 1 for name in names]
    columns = [pattern[:, q, k] for q in at for k in (0, max(q - 1, 0), q, *at)]
    return torch.stack(columns, 1)
