"""Makes the files beside it: scores of all edges by the authors' package, on three tiny random models.

    python -m venv gimenv
    gimenv/bin/pip install "transformer-lens<3" "transformers<5" "git+https://github.com/corticph/gim@7e31c65"
    gimenv/bin/python tests/golden/gim/authors.py

7e31c65 is after release 0.1.4, which does not scale gated MLPs. The package gives the gradients, on a HookedTransformer in float64;
the products with the writers' differences are written out here. For GPT-2 the scales of the gate are off: the package would scale the
hidden units of an MLP without a gate, because both have the name `hook_pre`.
"""

import json
from pathlib import Path

import torch
import transformers
from gim import GIM
from safetensors.torch import save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import (
    convert_gemma_weights,
    convert_gpt2_weights,
    convert_llama_weights,
)

HERE = Path(__file__).parent
VOCABULARY, WIDTH, LAYERS, HEADS, POSITIONS = 40, 24, 2, 4, 32
ROTARY = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 20, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "max_position_embeddings": POSITIONS, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
MODELS = {
    "gpt2": ("GPT2", convert_gpt2_weights, {
        "vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 3, "n_positions": POSITIONS, "bos_token_id": 1,
        "eos_token_id": 2,
    }),
    "llama": ("Llama", convert_llama_weights, ROTARY),
    "gemma2": ("Gemma2", convert_gemma_weights, {**ROTARY, "head_dim": 8, "sliding_window": 32, "query_pre_attn_scalar": 16}),
}  # fmt: skip


def hugging_face(kind, options):
    """A random model with weights large enough that attention and gates do something; exact in float32."""
    torch.manual_seed(0)
    suffix = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    config = getattr(transformers, f"{kind}Config")(**options, attn_implementation="eager")
    model = getattr(transformers, kind + suffix)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def hooked(kind, convert, hf):
    config = hf.config
    options = {
        "d_model": WIDTH, "n_layers": LAYERS, "n_heads": config.num_attention_heads, "n_ctx": POSITIONS,
        "d_head": getattr(config, "head_dim", None) or WIDTH // config.num_attention_heads, "d_vocab": VOCABULARY,
        "d_mlp": 4 * WIDTH if kind == "GPT2" else config.intermediate_size, "dtype": torch.float64, "seed": 0,
        "eps": config.layer_norm_epsilon if kind == "GPT2" else config.rms_norm_eps,
        "act_fn": {"GPT2": "gelu_new", "Llama": "silu", "Gemma2": "gelu_pytorch_tanh"}[kind],
        "normalization_type": "LN" if kind == "GPT2" else "RMS",
    }  # fmt: skip
    if kind != "GPT2":
        options |= {
            "positional_embedding_type": "rotary", "rotary_dim": options["d_head"], "gated_mlp": True, "final_rms": True,
            "rotary_adjacent_pairs": False, "n_key_value_heads": config.num_key_value_heads, "rotary_base": 10000,
        }  # fmt: skip
    if kind == "Gemma2":
        options |= {
            "use_normalization_before_and_after": True, "attn_scores_soft_cap": config.attn_logit_softcapping,
            "output_logits_soft_cap": config.final_logit_softcapping, "attn_scale": config.query_pre_attn_scalar**0.5,
            "use_attn_scale": True,
        }  # fmt: skip
    if kind == "Llama":
        options |= {"original_architecture": "LlamaForCausalLM"}
    model = HookedTransformer(HookedTransformerConfig(**options), move_to_device=False)
    model.load_state_dict(convert(hf.double(), model.cfg), strict=False)
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    return model.double()


def writers(model, tokens):
    """Every writer's output in a plain forward pass."""
    logits, cache = model.run_with_cache(tokens[None])
    written = {"input": cache["blocks.0.hook_resid_pre"][0]}
    for layer, block in enumerate(model.blocks):
        heads = cache[f"blocks.{layer}.attn.hook_result"][0]
        if model.cfg.use_normalization_before_and_after:
            heads = heads / cache[f"blocks.{layer}.ln1_post.hook_scale"][0][:, None] * block.ln1_post.w
        written |= {f"a{layer}.h{h}": heads[:, h] for h in range(heads.shape[1])}
        written[f"m{layer}"] = cache[f"blocks.{layer}.hook_mlp_out"][0]
    return logits[0], {name: value.detach() for name, value in written.items()}


def gradients(model, tokens, answer, distractor, rules):
    """Every reader's gradient under the rules, at its input before the norm."""
    found, kept = {}, {}
    groups = model.cfg.n_key_value_heads
    for layer in range(LAYERS):
        for part in "qkv":
            name = "h" if part == "q" or groups is None else "kv"
            kept[f"blocks.{layer}.hook_{part}_input"] = f"a{layer}.{name}{{}}<{part}>"
        kept[f"blocks.{layer}.hook_mlp_in"] = f"m{layer}"
    kept[f"blocks.{LAYERS - 1}.hook_resid_post"] = "logits"

    def keep(value, hook):
        value.register_hook(lambda gradient: found.__setitem__(hook.name, gradient[0]))
        return value

    with GIM(model, **rules):
        logits = model.run_with_hooks(tokens[None], fwd_hooks=[(name, keep) for name in kept], reset_hooks_end=False)
        (logits[0, -1, answer] - logits[0, -1, distractor]).backward()
    readers = {}
    for name, reader in kept.items():
        heads = found[name]
        each = [heads] if heads.ndim == 2 else heads.unbind(1)
        readers |= {reader.format(i): gradient for i, gradient in enumerate(each)}
    model.reset_hooks()
    return readers


def before(writer, reader):
    if reader == "logits" or writer == "input":
        return True
    layer, source = int(reader[1:].split(".")[0]), int(writer[1:].split(".")[0])
    return source < layer or (source == layer and reader[0] == "m" and writer[0] == "a")


def main():
    torch.manual_seed(1)
    drawn = [torch.randint(3, VOCABULARY, (2, 6)) for _ in range(2)]
    pairs = [{"clean": clean.tolist(), "corrupted": corrupted.tolist(), "answer": 5 + i, "distractor": 20 + i}
             for i, (clean, corrupted) in enumerate(drawn)]  # fmt: skip
    for name, (kind, convert, options) in MODELS.items():
        hf = hugging_face(kind, options)
        save_file({key: value.clone() for key, value in hf.state_dict().items()}, HERE / f"{name}.safetensors")
        model = hooked(kind, convert, hf)
        scores = {}
        gate_off = {"gate_scale": None, "up_scale": None} if kind == "GPT2" else {}
        for variant, rules in {"defaults": {}, "others": OTHERS}.items():
            total = {}
            for pair in pairs:
                clean, corrupted = (torch.tensor(pair[side]) for side in ("clean", "corrupted"))
                logits, at_clean = writers(model, clean)
                own = hf(clean[None]).logits[0]
                assert torch.allclose(logits, own, rtol=1e-4, atol=1e-4), (name, float((logits - own).abs().max()))
                at_corrupted = writers(model, corrupted)[1]
                for reader, gradient in gradients(
                    model, clean, pair["answer"], pair["distractor"], rules | gate_off
                ).items():
                    for writer, value in at_clean.items():
                        if before(writer, reader):
                            product = float(((value - at_corrupted[writer]) * gradient).sum()) / len(pairs)
                            total[f"{writer}->{reader}"] = total.get(f"{writer}->{reader}", 0.0) + product
            scores[variant] = {edge: float(f"{value:.12g}") for edge, value in total.items()}
        case = {"kind": type(hf).__name__, "config": options, "pairs": pairs, "rules": OTHERS, **scores}
        (HERE / f"{name}.json").write_text(json.dumps(case, indent=0) + "\n")
        print(name, len(total), "edges")


OTHERS = {
    "softmax_temperature": 3.0,
    "q_scale": 0.5,
    "k_scale": 0.4,
    "v_scale": 0.3,
    "gate_scale": 0.7,
    "up_scale": 0.2,
}


if __name__ == "__main__":
    main()
