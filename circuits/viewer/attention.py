"""Attention patterns of heads on one prompt, for the viewer."""

from collections.abc import Sequence

import torch

from circuits.engine.hooks import Hook, TokenBatch, inference_state, run
from circuits.errors import InputError, ModelError
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.prompts.pairs import PromptPairs


@on_model
def attention_patterns(
    model: Model, pairs: PromptPairs, heads: Sequence[str], pair: int = 0
) -> tuple[list[str], dict[str, list[list[float]]]]:
    """Each head's attention on the clean prompt of a pair.

    Args:
        model: a model that exposes its attention patterns.
        pairs: the prompts.
        heads: names such as `a5.h2`; names of other nodes are ignored.
        pair: number of the pair.

    Returns:
        The prompt's tokens as text (ids without a tokenizer), and for each head its pattern [query, key].

    Raises:
        InputError: the pair does not exist.
        ModelError: the model does not expose its attention patterns.
    """
    if not 0 <= pair < len(pairs):
        raise InputError(f"there is no pair {pair}; there are {len(pairs)}, counted from 0")
    ids = pairs.clean[pair]
    wanted: dict[int, dict[int, str]] = {}
    for writer in model.graph.writer_nodes:
        if writer.name in heads and writer.head is not None:
            wanted.setdefault(writer.layer, {})[writer.head] = writer.name
    found: dict[str, list[list[float]]] = {}

    def keep(layer: int, value: torch.Tensor) -> None:
        for head, name in wanted[layer].items():
            found[name] = value[0, head].float().cpu().tolist()

    hooks: list[Hook] = []
    for layer in wanted:
        point = model.bridge.hook_dict.get(f"blocks.{layer}.attn.hook_pattern")
        if point is None:
            raise ModelError(f"layer {layer} of {model.name} does not show its attention pattern")
        hooks.append((point, lambda value, layer=layer: keep(layer, value)))
    tokens = torch.tensor([ids], device=model.device)
    with inference_state(model.bridge), torch.no_grad():
        last = torch.tensor([len(ids) - 1], device=model.device)
        run(model.architecture, TokenBatch(tokens, last), hooks)
    texts = [str(i) for i in ids] if model.tokenizer is None else [model.tokenizer.decode([i]) for i in ids]
    return texts, {name: found[name] for name in heads if name in found}
