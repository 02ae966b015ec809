"""Tiny random models of several architectures, and naive twins of what the engine does fast."""

from functools import cache

import torch
import transformers

import circuits
from circuits import Circuit, Model, PromptPairs

D_VOCAB = 40
COMMON = {
    "vocab_size": D_VOCAB,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "gpt2": ("GPT2", {"vocab_size": D_VOCAB, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 3,
                      "bos_token_id": 1, "eos_token_id": 2}),
    "llama": ("Llama", {**COMMON, "num_key_value_heads": 2}),
    "neox": ("GPTNeoX", {**COMMON, "rotary_pct": 0.5}),
}  # fmt: skip


def random_hf_model(name: str, dtype: torch.dtype = torch.float64, seed: int = 0):
    """A Hugging Face model with weights large enough that attention and gates do something."""
    family, options = CONFIGS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**options)
    kind = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, kind)(config).eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@cache
def tiny(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Model:
    """A loaded tiny model; shared between tests, which must leave it as it is."""
    return circuits.load_model(random_hf_model(name, dtype, seed))


def random_pairs(n: int = 5, length: int = 7, seed: int = 0, prefix: int = 0) -> PromptPairs:
    """Random token pairs that agree in the first `prefix` tokens."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(3, D_VOCAB, (n, length), generator=generator)
    corrupted = torch.randint(3, D_VOCAB, (n, length), generator=generator)
    corrupted[:, :prefix] = clean[:, :prefix]
    answers = torch.randint(3, 20, (n,), generator=generator)
    distractors = torch.randint(20, D_VOCAB, (n,), generator=generator)
    return PromptPairs.from_tokens(clean.tolist(), corrupted.tolist(), answers.tolist(), distractors.tolist())


def random_subset(model: Model, share: float, seed: int = 0) -> Circuit:
    """Every edge with probability `share`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(model.graph.edge_mask.shape, generator=generator) < share
    return Circuit(model.graph, drawn & model.graph.edge_mask)
