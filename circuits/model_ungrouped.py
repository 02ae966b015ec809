"""The same model with a key/value head for every query head.

With grouped-query attention several query heads share one key/value head, so an edge into a key or value acts on all of them. MIB
(Mueller et al. 2025, 2504.13151) and EAP-IG count an edge for every query head, as if the model were copied out:

    k_proj, v_proj  [n_kv_heads · d_head, d_model]   →   each head's rows repeated group_size times

The function is the same; only the graph has more readers. A trial run compares the logits before and after.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from circuits.errors import InputError, ModelError
from circuits.graph.graph import Graph

TRIAL = 5
"""Tokens of the trial run."""
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Largest difference of a logit, as a share of their largest size, by dtype. Hugging Face computes some norms in float32."""
HALF = 0.05
"""The same for 16-bit dtypes."""
BEFORE = "key_value_heads_before_ungrouping"
"""The entry of the configuration with the number of key/value heads of the checkpoint."""


def check_ungrouped(graph: Graph, name: str, asked: bool) -> None:
    """Refuses a model that is still grouped.

    Raises:
        InputError: its keys and values are not two linear layers of a Hugging Face model.
    """
    if asked and graph.grouped:
        raise InputError(
            f"{name}: its {graph.n_kv_heads} key/value heads cannot be copied out to {graph.n_heads} query heads; that needs a "
            "Hugging Face model (or its name) with a linear k_proj and v_proj in each layer"
        )


def ungroup(model: Any, name: str) -> None:
    """Copies every key/value head out to its query heads, if it can; `model` is changed, its old weights are not.

    Args:
        model: a Hugging Face model.
        name: for messages.

    Raises:
        ModelError: the trial run gives other logits.
    """
    config = _text_config(model)
    heads = getattr(config, "num_attention_heads", None)
    groups = getattr(config, "num_key_value_heads", None) or heads
    if heads is None or groups == heads:
        return
    grouped = [part for part in model.modules() if _has_groups(part)]
    if len(grouped) != config.num_hidden_layers or any(_normed_whole(part) for part in grouped):
        return  # which `check_ungrouped` sees
    before = _trial(model)
    for part in grouped:
        _copy_out(part)
    config.num_key_value_heads = heads
    setattr(config, BEFORE, groups)
    _check(before, _trial(model), name)


def grouped_graph(graph: Graph, model: Any) -> Graph:
    """The graph with the key/value heads that the checkpoint of `model` has."""
    groups = getattr(_text_config(model), BEFORE, None)
    return graph if groups is None else replace(graph, n_kv_heads=groups)


def _text_config(model: Any) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _has_groups(part: nn.Module) -> bool:
    return isinstance(getattr(part, "num_key_value_groups", None), int) and all(
        type(getattr(part, each, None)) is nn.Linear for each in ("q_proj", "k_proj", "v_proj")
    )


def _normed_whole(part: Any) -> bool:
    """Whether a norm acts on the keys of all heads together, as in OLMo-2."""
    norm = getattr(part, "k_norm", None)
    weight = getattr(norm, "weight", None)
    return weight is not None and weight.numel() == part.k_proj.out_features != part.head_dim


def _copy_out(part: Any) -> None:
    size = part.num_key_value_groups
    for each in ("k_proj", "v_proj"):
        old = getattr(part, each)
        new = nn.Linear(old.in_features, old.out_features * size, old.bias is not None, device="meta")
        new.weight = _repeated(old.weight, part.head_dim, size)
        if old.bias is not None:
            new.bias = _repeated(old.bias, part.head_dim, size)
        new.train(old.training)
        setattr(part, each, new)
    part.num_key_value_groups = 1
    for each in ("num_key_value_heads", "num_kv_heads"):
        if hasattr(part, each):
            setattr(part, each, getattr(part, each) * size)


def _repeated(weight: Tensor, d_head: int, size: int) -> nn.Parameter:
    by_head = weight.detach().unflatten(0, (-1, d_head))
    return nn.Parameter(by_head.repeat_interleave(size, 0).flatten(0, 1), requires_grad=weight.requires_grad)


def _trial(model: Any) -> Tensor:
    device = next(model.parameters()).device
    with torch.no_grad():
        return model(torch.arange(3, 3 + TRIAL, device=device)[None], use_cache=False).logits


def _check(before: Tensor, after: Tensor, name: str) -> None:
    share = float((before - after).abs().max() / before.abs().max())
    if not share <= TOLERANCE.get(before.dtype, HALF):
        raise ModelError(f"{name}: with a key/value head per query head its logits differ by a share of {share:.1e}")
