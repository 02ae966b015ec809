"""Attention patterns of heads on one prompt, for the viewer."""

from collections.abc import Sequence

import torch

from circuits.descriptions.attention import recorded_patterns
from circuits.descriptions.tokens import token_texts
from circuits.engine.hooks import TokenBatch, inference_state
from circuits.errors import InputError
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
    layers = {writer.name: (writer.layer, writer.head) for writer in model.graph.writer_nodes if writer.kind == "head"}
    wanted = {head: layers[head] for head in heads if head in layers}
    tokens = torch.tensor([ids], device=model.device)
    last = torch.tensor([len(ids) - 1], device=model.device)
    with inference_state(model.bridge):
        seen = recorded_patterns(model.architecture, TokenBatch(tokens, last), {layer for layer, _ in wanted.values()})
    patterns = {name: seen[layer][0, head].float().cpu().tolist() for name, (layer, head) in wanted.items()}
    return list(token_texts(model, ids)), patterns
