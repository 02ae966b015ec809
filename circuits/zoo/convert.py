"""Converts a llama model from GGUF to a directory in Hugging Face's layout.

There are two differences: the rows of the query and key projections are permuted (GGUF rotates neighbouring pairs of a head,
Hugging Face its two halves), and GGUF stores the tokenizer as a list of tokens and a list of merges.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from circuits.errors import ModelError
from circuits.zoo.entry import Golden, Progress, no_progress
from circuits.zoo.gguf import GGUF, read_gguf
from circuits.zoo.streaming import write_float32

FIRST_TOKEN, PADDING_TOKEN = "<|endoftext|>", "<|im_end|>"
CONTROL = 3  # the GGUF token type of special tokens
TOP_LEVEL = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
IN_A_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEADS_OF = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}


def convert(gguf: Path, output: Path, golden: Golden, progress: Progress = no_progress) -> None:
    """Writes a llama model with tied embeddings and a byte-level BPE tokenizer as a Hugging Face directory.

    Raises:
        GGUFError: the file cannot be read.
        ModelError: it is not such a model, or its tokenizer does not give the known token ids.
    """
    model = read_gguf(gguf)
    try:
        config = _config(model)
        tokenizer = _tokenizer(model)
        sources = _sources(model)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{gguf} is not a llama model as expected ({type(error).__name__}: {error})") from error
    golden.check_tokens(str(gguf), lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
    _write_json(output / "config.json", config)
    (output / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    _write_json(output / "tokenizer_config.json", _tokenizer_config(config))
    shapes = {name: model.tensors[source].shape for name, source in sources.items()}
    write_float32(output / "model.safetensors", shapes, lambda name: _weight(model, sources[name]), progress)


def _sources(model: GGUF) -> dict[str, str]:
    """Hugging Face tensor name -> GGUF tensor name, in the order of writing."""
    sources = {hf: gguf for gguf, hf in TOP_LEVEL.items()}
    for block in range(model.metadata["llama.block_count"]):
        for gguf, hf in IN_A_BLOCK.items():
            sources[f"model.layers.{block}.{hf}.weight"] = f"blk.{block}.{gguf}.weight"
    odd = sorted(set(sources.values()) ^ set(model.tensors))
    if odd:
        raise ValueError(f"{len(odd)} tensors are missing or not expected, the first {odd[0]}")
    return sources


def _weight(model: GGUF, source: str) -> np.ndarray:
    """A tensor, with the query and key rows in Hugging Face's order."""
    weight = model.tensor(source)
    heads = HEADS_OF.get(source.split(".")[-2])
    if heads is None:
        return weight
    halves = "(head pair half) d_model -> (head half pair) d_model"
    return rearrange(weight, halves, head=model.metadata[heads], half=2)


def _config(model: GGUF) -> dict[str, Any]:
    facts = {key.removeprefix("llama."): value for key, value in model.metadata.items() if key.startswith("llama.")}
    theta = facts["rope.freq_base"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": facts["embedding_length"],
        "intermediate_size": facts["feed_forward_length"],
        "num_hidden_layers": facts["block_count"],
        "num_attention_heads": facts["attention.head_count"],
        "num_key_value_heads": facts["attention.head_count_kv"],
        "head_dim": facts["rope.dimension_count"],
        "vocab_size": facts["vocab_size"],
        "max_position_embeddings": facts["context_length"],
        "rms_norm_eps": float(
            f"{facts['attention.layer_norm_rms_epsilon']:.6g}"
        ),  # the decimal number before rounding to float32
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "dtype": "float32",
    }


def _tokenizer(model: GGUF) -> Tokenizer:
    """Byte-level BPE that first separates every digit, as in training; control tokens are never split."""
    tokens: list[str] = model.metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in model.metadata["tokenizer.ggml.merges"]]
    kinds = model.metadata["tokenizer.ggml.token_type"]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    digits, pieces = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def _tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": FIRST_TOKEN,
        "eos_token": FIRST_TOKEN,
        "unk_token": FIRST_TOKEN,
        "pad_token": PADDING_TOKEN,
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
