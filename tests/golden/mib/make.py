"""Runs MIB's evaluator on the models of `tests/mib/shapes.py` and stores what it gives; see README.md beside this file.

python tests/golden/mib/make.py files                          in this project's environment: files of nodes and neurons
python tests/golden/mib/make.py values TRACK EAP_IG_SRC        in MIB's environment: the rest
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))
from tests.mib.shapes import SHAPES, hf_model, prompts, random_scores  # noqa: E402


def write_files():
    """Importances of nodes and of neurons, written by this package: MIB's own writer raises IndexError for both."""
    import circuits
    from circuits.mib.files import Importances, write_importances

    for shape in SHAPES:
        model = circuits.load_model(hf_model(shape), ungrouped=True)
        graph, nothing = model.graph, torch.zeros(model.graph.edge_mask.shape, dtype=torch.float64)
        nodes = random_scores((graph.n_writers,), 1)
        neurons = random_scores((graph.n_writers, model.bridge.cfg.d_model), 2).float().double()
        for name, part in (("node", {"nodes": nodes}), ("neuron", {"neurons": neurons})):
            write_importances(Importances(graph, nothing, nothing > 0, **part), HERE / f"{shape}-{name}.json", 32)


def config_of(hf, shape):
    """What TransformerLens 2 derives from a model of this kind."""
    from transformer_lens import HookedTransformerConfig

    c = hf.config
    shared = {"d_vocab": c.vocab_size, "n_layers": c.num_hidden_layers, "n_heads": c.num_attention_heads,
              "d_model": c.hidden_size, "n_ctx": 32, "device": "cpu", "dtype": torch.float32}  # fmt: skip
    if shape.startswith("gpt2"):
        return HookedTransformerConfig(
            **shared, d_head=c.hidden_size // c.num_attention_heads, d_mlp=4 * c.hidden_size, act_fn="gelu_new",
            eps=c.layer_norm_epsilon, normalization_type="LN", original_architecture="GPT2LMHeadModel",
        )  # fmt: skip
    d_head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    more = {"act_fn": "silu"}
    if shape == "gemma2":
        more = {
            "act_fn": "gelu_pytorch_tanh", "attn_scale": c.query_pre_attn_scalar**0.5, "window_size": c.sliding_window,
            "use_local_attn": True, "attn_types": ["global", "local", "global"], "use_normalization_before_and_after": True,
            "attn_scores_soft_cap": c.attn_logit_softcapping, "output_logits_soft_cap": c.final_logit_softcapping,
        }  # fmt: skip
    kind = f"{SHAPES[shape][0]}ForCausalLM"
    return HookedTransformerConfig(
        **shared, d_head=d_head, d_mlp=c.intermediate_size, eps=c.rms_norm_eps, normalization_type="RMS",
        n_key_value_heads=c.num_key_value_heads, positional_embedding_type="rotary", rotary_dim=d_head,
        rotary_base=int(getattr(c, "rope_theta", 10000)), rotary_adjacent_pairs=False, final_rms=True, gated_mlp=True,
        original_architecture=kind, **more,
    )  # fmt: skip


def hooked(shape):
    """The model in TransformerLens 2, processed as `from_pretrained` does by default, and as MIB sets it."""
    from transformer_lens import HookedTransformer
    from transformer_lens.pretrained import weight_conversions as to_lens

    hf = hf_model(shape)
    cfg = config_of(hf, shape)
    convert = {"gpt2": "gpt2", "llama": "llama", "qwen2": "qwen2", "gemma2": "gemma"}[shape.partition("-")[0]]
    model = HookedTransformer(cfg)
    state = getattr(to_lens, f"convert_{convert}_weights")(hf, cfg)
    soft = cfg.output_logits_soft_cap > 0.0
    model.load_and_process_state_dict(
        state, fold_ln=True, center_writing_weights=cfg.normalization_type == "LN", center_unembed=not soft
    )
    model.eval()
    for flag in ("use_split_qkv_input", "use_attn_result", "use_hook_mlp_in", "ungroup_grouped_query_attention"):
        setattr(model.cfg, flag, True)
    tokens = torch.arange(3, 9)[None]
    with torch.no_grad():
        ours, theirs = hf(tokens).logits.log_softmax(-1), model(tokens).log_softmax(-1)
    print(shape, "largest difference of a log probability from Hugging Face's:", float((ours - theirs).abs().max()))
    return model


def tokenize(model, inputs):
    """In place of MIB's tokenizer: the inputs are token ids already, padded on the right."""
    lengths = torch.tensor([len(ids) for ids in inputs])
    tokens = torch.zeros(len(inputs), int(lengths.max()), dtype=torch.long)
    for row, ids in zip(tokens, inputs, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
    return tokens, mask, lengths, tokens.shape[1]


def on_this_device():
    """MIB's code asks for "cuda" by name in some places."""
    zeros = torch.zeros

    def anywhere(*shape, **options):
        return zeros(*shape, **{**options, **({"device": "cpu"} if options.get("device") == "cuda" else {})})

    torch.zeros = anywhere


def store_values(track, eap_src):
    sys.path[:0] = [track, eap_src]
    on_this_device()
    import eap.attribute
    import eap.evaluate
    from eap.graph import Graph
    from MIB_circuit_track.evaluation import evaluate_area_under_curve
    from MIB_circuit_track.metrics import get_metric

    eap.attribute.tokenize_plus = eap.evaluate.tokenize_plus = tokenize
    rows = prompts()
    batches = [tuple(map(list, zip(*rows[i : i + 4], strict=True))) for i in range(0, len(rows), 4)]
    metric = get_metric("logit_diff", "ioi", None, None)
    stored = {}
    for shape in SHAPES:
        model = hooked(shape)
        graph = Graph.from_model(model)
        loss = partial(metric, mean=True, loss=True)
        eap.attribute.attribute(model, graph, batches, loss, "EAP-IG-inputs", "patching", ig_steps=5, quiet=True)
        graph.to_json(str(HERE / f"{shape}-edge.json"))
        found = {}
        for level in ("edge", "greedy", "node", "neuron"):
            file = HERE / f"{shape}-{'edge' if level == 'greedy' else level}.json"
            how = {"level": "edge", "apply_greedy": True} if level == "greedy" else {"level": level}
            for absolute in (False, True):
                counts, cpr, cmd, _, points = evaluate_area_under_curve(
                    model, Graph.from_json(str(file)), batches, partial(metric, mean=False, loss=False), quiet=True,
                    absolute=absolute, **how,
                )  # fmt: skip
                found[f"{level}-{'abs' if absolute else 'signed'}"] = {
                    "counts": counts, "area_under": cpr, "area_from_1": cmd, "faithfulnesses": points,
                }  # fmt: skip
        stored[shape] = {"n_edges": len(graph.edges), **found}
    (HERE / "values.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    write_files() if sys.argv[1] == "files" else store_values(*sys.argv[2:4])
