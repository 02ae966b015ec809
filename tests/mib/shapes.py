"""Small models whose weights follow from their names, in any version of torch and transformers, and prompts for them.

`tests/golden/mib/make.py` runs MIB's own code on them in an environment of its own; the tests run ours. So this file imports only what
both have.
"""

import numpy as np
import torch
import transformers

D_VOCAB = 40
COMMON = {
    "vocab_size": D_VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {"vocab_size": D_VOCAB, "n_positions": 32, "n_embd": 32, "n_layer": 3, "bos_token_id": 1, "eos_token_id": 2}
SHAPES = {
    "gpt2": ("GPT2", {**GPT2, "n_head": 4}),
    "llama": ("Llama", {**COMMON, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2", {**COMMON, "num_key_value_heads": 1}),
    "gemma2": ("Gemma2", {**COMMON, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "gpt2-two-heads": ("GPT2", {**GPT2, "n_head": 2}),
}
"""Name -> class and configuration; grouped key/value heads in the second to fourth."""


def hf_model(shape: str, dtype: torch.dtype = torch.float32):
    """A Hugging Face model."""
    kind, options = SHAPES[shape]
    config = getattr(transformers, f"{kind}Config")(**options)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    draw = np.random.Generator(np.random.PCG64(sum(map(ord, shape))))
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            values = torch.from_numpy(draw.standard_normal(tuple(weight.shape)))
            norm = (weight.ndim == 1 and "norm" in name) or ".ln_" in name
            base = 1.0 if norm and name.endswith("weight") and kind != "Gemma2" else 0.0
            weight.copy_(base + values * (0.15 if weight.ndim == 1 else 0.3))
    return model.eval().to(dtype)


def prompts(n: int = 6, seed: int = 0) -> list[tuple[list[int], list[int], list[int]]]:
    """(clean, corrupted, [answer, distractor]) of token ids that begin with BOS, of two lengths."""
    draw = np.random.Generator(np.random.PCG64(seed))
    rows = []
    for i in range(n):
        clean = [1, *draw.integers(3, D_VOCAB, 5 + 2 * (i % 2)).tolist()]
        corrupted = [clean[0], clean[1], *draw.integers(3, D_VOCAB, len(clean) - 2).tolist()]
        answer, distractor = draw.permutation(np.arange(3, D_VOCAB))[:2].tolist()
        rows.append((clean, corrupted, [answer, distractor]))
    return rows


def random_scores(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Scores for nodes and neurons, the first one missing."""
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    values.reshape(-1)[0] = np.nan
    return torch.from_numpy(values)
