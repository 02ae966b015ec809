"""Tiny random models of several architectures, and naive twins of what the engine does fast."""

from functools import cache

import torch
import transformers
from transformer_lens import TransformerBridge, TransformerBridgeConfig

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
GROUPED = {"num_key_value_heads": 2}
IDS = {"bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": D_VOCAB, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 3, **IDS}),
    "gpt-neo": ("GPTNeoForCausalLM", {
        "vocab_size": D_VOCAB, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "window_size": 4,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 32, **IDS,
    }),
    "gpt-j": ("GPTJForCausalLM", {
        "vocab_size": D_VOCAB, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4, **IDS,
    }),
    "neox": ("GPTNeoXForCausalLM", {**COMMON, "rotary_pct": 0.5}),
    "neox-sequential": ("GPTNeoXForCausalLM", {**COMMON, "rotary_pct": 0.5, "use_parallel_residual": False}),
    "llama": ("LlamaForCausalLM", {**COMMON, **GROUPED}),
    "mistral": ("MistralForCausalLM", {**COMMON, **GROUPED, "sliding_window": 4}),
    "qwen2": ("Qwen2ForCausalLM", {**COMMON, **GROUPED}),
    "qwen3": ("Qwen3ForCausalLM", {**COMMON, **GROUPED, "head_dim": 8}),
    "gemma": ("GemmaForCausalLM", {**COMMON, "num_key_value_heads": 1, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", {**COMMON, **GROUPED, "head_dim": 8, "sliding_window": 4}),
    "gemma3": ("Gemma3ForCausalLM", {
        **COMMON, **GROUPED, "head_dim": 8, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }),
    "olmo2": ("Olmo2ForCausalLM", COMMON),
    "phi": ("PhiForCausalLM", {**COMMON, "partial_rotary_factor": 0.67}),
    "phi3": ("Phi3ForCausalLM", {**COMMON, **GROUPED}),
    "opt": ("OPTForCausalLM", {
        "vocab_size": D_VOCAB, "hidden_size": 24, "ffn_dim": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 32, "word_embed_proj_dim": 24, "pad_token_id": 0, **IDS,
    }),
    "bloom": ("BloomForCausalLM", {"vocab_size": D_VOCAB, "hidden_size": 24, "n_layer": 3, "n_head": 4, **IDS}),
    "falcon": ("FalconForCausalLM", {
        "vocab_size": D_VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "multi_query": True,
        "parallel_attn": True, "new_decoder_architecture": False, "alibi": False, **IDS,
    }),
    "mixtral": ("MixtralForCausalLM", {**COMMON, **GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mpt": ("MptForCausalLM", {"vocab_size": D_VOCAB, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 32}),
    "cohere": ("CohereForCausalLM", COMMON),
    "granite": ("GraniteForCausalLM", {**COMMON, "residual_multiplier": 0.5}),
    "codegen": ("CodeGenForCausalLM", {
        "vocab_size": D_VOCAB, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4, **IDS,
    }),
    "stablelm": ("StableLmForCausalLM", {**COMMON, **GROUPED}),
    "smollm3": ("SmolLM3ForCausalLM", {**COMMON, **GROUPED}),
}  # fmt: skip
NATIVE = {
    "native": {"act_fn": "relu", "normalization_type": "LN"},
    "native-no-norm": {"act_fn": "relu", "normalization_type": None},
    "native-attention-only": {"act_fn": "relu", "normalization_type": None, "attn_only": True},
}
ALL = (*CONFIGS, *NATIVE)
FEW = ("gpt2", "llama", "neox", "gemma2", "native-attention-only")
"""One of each kind: plain, grouped, parallel, post-norm, without MLPs."""


def config_class(kind: str) -> str:
    """Name of the configuration of a model class."""
    if kind == "Gemma3ForCausalLM":
        return "Gemma3TextConfig"
    return kind.replace("ForCausalLM", "").replace("LMHeadModel", "") + "Config"


def random_hf_model(name: str, dtype: torch.dtype = torch.float64, seed: int = 0):
    """A Hugging Face model with weights large enough that attention and gates do something."""
    kind, options = CONFIGS[name]
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(getattr(transformers, config_class(kind))(**options)).eval().double()
    _enlarge(model)
    return model.to(dtype)


def random_native_bridge(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> TransformerBridge:
    """One of TransformerLens' own models."""
    config = TransformerBridgeConfig(
        d_model=24, d_head=8, n_layers=3, n_ctx=32, n_heads=3, d_vocab=D_VOCAB, seed=seed, **NATIVE[name]
    )
    torch.manual_seed(seed)  # the configuration's seeds the weights only, not what is added to them
    bridge = TransformerBridge.boot_native(config).double()
    _enlarge(bridge, 4)
    return bridge.to(dtype)


def _enlarge(model: torch.nn.Module, factor: float = 8) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))


@cache
def tiny(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Model:
    """A loaded tiny model; shared between tests, which must leave it as it is."""
    make = random_native_bridge if name in NATIVE else random_hf_model
    dtype = torch.float32 if name == "mixtral" else dtype  # its grouped matrix product has no float64
    return circuits.load_model(make(name, dtype, seed))


def atol(name: str) -> float:
    """What counts as rounding for a metric: Hugging Face computes some norms, rotary tables and softmaxes in float32
    whatever is asked, so float64 is float64 on GPT-2 and native models only."""
    return 1e-10 if name == "gpt2" or name in NATIVE else 2e-4


def random_pairs(n: int = 5, length: int = 7, seed: int = 0, prefix: int = 0) -> PromptPairs:
    """Random token pairs that agree in the first `prefix` tokens."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(3, D_VOCAB, (n, length), generator=generator)
    corrupted = torch.randint(3, D_VOCAB, (n, length), generator=generator)
    corrupted[:, :prefix] = clean[:, :prefix]
    answers = torch.randint(3, 20, (n,), generator=generator)
    distractors = torch.randint(20, D_VOCAB, (n,), generator=generator)
    return PromptPairs.from_tokens(clean.tolist(), corrupted.tolist(), answers.tolist(), distractors.tolist())


def pairs_with_roles() -> PromptPairs:
    """Three pairs of different lengths, with roles at different positions and in different orders."""
    rows = [random_pairs(n=1, length=length, seed=length) for length in (5, 6, 7)]
    return PromptPairs.from_tokens(
        [row.clean[0] for row in rows],
        [row.corrupted[0] for row in rows],
        [3, 4, 5],
        [30, 31, 32],
        roles=[{"subject": 1, "end": 4}, {"end": 5, "subject": 3}, {"subject": 2, "end": 6}],
    )


def random_subset(model: Model, share: float, seed: int = 0) -> Circuit:
    """Every edge with probability `share`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(model.graph.edge_mask.shape, generator=generator) < share
    return Circuit(model.graph, drawn & model.graph.edge_mask)


def awkward_pairs() -> PromptPairs:
    """Two lengths, several answers, positions that are not last, roles."""
    generator = torch.Generator().manual_seed(1)

    def prompt(n: int) -> list[int]:
        return torch.randint(3, 40, (n,), generator=generator).tolist()

    lengths = (6, 8, 6, 8)
    return PromptPairs.from_tokens(
        [prompt(n) for n in lengths], [prompt(n) for n in lengths], [[5], [6, 7], [8], [9, 10, 11]],
        [[12, 13], [14], [15], [16, 17]], positions=[5, 7, 3, 4],
        roles=[{"a": 1, "b": 2, "end": 5}, {"a": 2, "b": 4, "end": 7}, {"a": 0, "b": 1, "end": 3}, {"a": 1, "b": 2, "end": 4}],
    )  # fmt: skip
