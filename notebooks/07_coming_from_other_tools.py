# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/07_coming_from_other_tools.ipynb)
#
# # Coming from EAP-IG, auto-circuit, ACDC or TransformerLens
#
# For each tool: its calls as you would write them, and below the calls here, which run. The other tools' code is quoted, not run:
# EAP-IG, auto-circuit and ACDC need TransformerLens 2 or older, and this package needs version 4. The calls were checked against
# the sources of EAP-IG (`src/eap`), auto-circuit 1.0.1, ACDC's repository and TransformerLens 4.3.

# %%
# Installs the package where it is missing, as on Colab. SMOKE=1 in the environment makes everything small.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("circuits") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "mech-circuits[viz]"], check=True)
SMOKE = os.environ.get("SMOKE") == "1"

# %%
import json
from pathlib import Path

import circuits

model = circuits.load_model("smollm2-135m")
pairs = circuits.load_task("ioi").pairs(model, n=2 if SMOKE else 8, seed=0, one_length=True)
print(model.graph, pairs, sep="\n")

# %% [markdown]
# ## What is the same, and what is not
#
# | | EAP-IG | auto-circuit | ACDC | here |
# |---|---|---|---|---|
# | embedding | `input` | `Resid Start` | `blocks.0.hook_resid_pre` | `input` |
# | head 2 of layer 5 | `a5.h2` | `A5.2` | `blocks.5.attn.hook_result[:, :, 2]` | `a5.h2` |
# | its query input | `a5.h2<q>` | `A5.2.Q` | `blocks.5.hook_q_input[:, :, 2]` | `a5.h2<q>` |
# | MLP of layer 3 | `m3` | `MLP 3` | `blocks.3.hook_mlp_out` | `m3` |
# | end of the residual stream | `logits` | `Resid End` | the last `hook_resid_post` | `logits` |
#
# - **Model.** No flags (`use_split_qkv_input`, `use_attn_result`, `use_hook_mlp_in`) and no ungrouping of key/value heads. With
#   grouped-query attention, the k and v readers belong to the shared head (`a5.kv0<k>`), so the graph has fewer edges. Files in
#   EAP-IG's format have one entry per query head.
# - **Weights.** They are used as they are, without folding of norms or centring. Scores of raw logits differ from those of a
#   processed model; logit differences differ in the last digits only.
# - **Sign.** Positive means that a part helps. EAP-IG and ACDC take a loss to be kept low; metrics here are not negated.
# - **Scale.** All scores are means over prompts. EAP-IG divides by the number of prompts; if the metric is already a mean over
#   the batch, its scores are smaller by a factor of the batch size.

# %% [markdown]
# ## EAP-IG
#
# ```python
# model = HookedTransformer.from_pretrained("gpt2-small", device="cuda")
# model.cfg.use_split_qkv_input = True
# model.cfg.use_attn_result = True
# model.cfg.use_hook_mlp_in = True
# dataloader = EAPDataset("ioi.csv").to_dataloader(16)  # EAPDataset and logit_diff: from the repository's notebooks
#
# graph = Graph.from_model(model)
# attribute(model, graph, dataloader, partial(logit_diff, loss=True, mean=True), method="EAP-IG-inputs", ig_steps=5)
# graph.apply_topn(200, absolute=True)
# results = evaluate_graph(model, graph, dataloader, partial(logit_diff, loss=False, mean=False)).mean().item()
# baseline = evaluate_baseline(model, dataloader, partial(logit_diff, loss=False, mean=False)).mean().item()
# graph.to_json("graph.json")
# ```
#
# | `method=` | here |
# |---|---|
# | `"EAP"` | `edge_attribution(…, gradient="clean")` |
# | `"EAP-IG-inputs"`, `ig_steps=5` | `edge_attribution(…, gradient="ig", steps=5, quadrature="left")`; the default here is `quadrature="midpoint"` |
# | `"clean-corrupted"` | `edge_attribution(…, gradient="clean-corrupted")` |
# | `"information-flow-routes"` | `information_flow(…)` |
# | `"exact"` | `exact_edge_effects(…)`, with the opposite sign |
#
# | `intervention=` | `ablation=` |
# |---|---|
# | `"patching"` | `"interchange"` |
# | `"zero"` | `"zero"` |
# | `"mean"`, `intervention_dataloader=other` | `circuits.Ablation("mean", reference=other)` |
# | `"mean-positional"` | `circuits.Ablation("mean_positional", reference=other)` |

# %%
scores = circuits.edge_attribution(model, pairs, gradient="ig", steps=2 if SMOKE else 5, quadrature="left")
circuit = scores.top(200)  # graph.apply_topn(200, absolute=True); apply_greedy: scores.greedy(200)
inside = circuits.circuit_metric(model, pairs, circuit).mean()  # evaluate_graph
baseline = circuits.circuit_metric(model, pairs, circuits.Circuit.full(model.graph)).mean()  # evaluate_baseline
print(f"{len(circuit)} edges: {inside:.2f} of {baseline:.2f}")

circuits.export_circuit(circuit, "graph.json", "eap-ig")  # graph.to_json; EAP-IG's Graph.from_json reads it
from circuits.export.eap_ig import read_eap_ig  # and this reads a file of EAP-IG

assert set(read_eap_ig("graph.json").edges) == set(circuit.edges)

# %% [markdown]
# `circuits.faithfulness` gives the normalised value, beside random circuits of the same size.

# %%
print(circuits.faithfulness(model, pairs, circuit, n_random=1 if SMOKE else 5))

# %% [markdown]
# ## auto-circuit
#
# ```python
# model = load_tl_model("gpt2", device)
# train_loader, test_loader = load_datasets_from_json(
#     model=model, path="ioi_prompts.json", device=device, prepend_bos=True, batch_size=16, train_test_size=(128, 128)
# )
# model = patchable_model(model, factorized=True, slice_output="last_seq", separate_qkv=True, device=device)
#
# scores = mask_gradient_prune_scores(
#     model=model, dataloader=train_loader, official_edges=None, grad_function="logit", answer_function="avg_diff", mask_val=0.0
# )
# outputs = run_circuits(
#     model, test_loader, test_edge_counts=[50, 100, 200], prune_scores=scores,
#     patch_type=PatchType.TREE_PATCH, ablation_type=AblationType.RESAMPLE,
# )
# ```
#
# | auto-circuit | here |
# |---|---|
# | `mask_gradient_prune_scores(…, mask_val=0.0)` | `edge_attribution(…, gradient="clean")` ([the same scores](https://github.com/mech-circuits/mech-circuits/blob/main/docs/against_auto_circuit.md)) |
# | `grad_function="prob"`, `"logprob"` | `metric="probability_difference"`, `"log_probability"` |
# | `integrated_grad_samples=n` | no counterpart: it interpolates the masks of all edges at once, `gradient="ig"` the embedding |
# | `run_circuits(…, PatchType.TREE_PATCH)` | `circuit_metric` and `faithfulness`: edges outside the circuit are ablated in the clean run |
# | `AblationType.RESAMPLE` | `"interchange"`: the value on the pair's own corrupted prompt |
# | `AblationType.ZERO` | `"zero"` |
# | `AblationType.TOKENWISE_MEAN_CLEAN` | `"mean_positional"` |
#
# A file of auto-circuit's prompts is read as it is:

# %%
prompts = [
    {"clean": pair.clean_text, "corrupt": pair.corrupted_text, "answers": [model.tokenizer.decode(pair.answers)],
     "wrong_answers": [model.tokenizer.decode(pair.distractors)]}
    for pair in pairs
]  # fmt: skip
Path("ioi_prompts.json").write_text(json.dumps({"prompts": prompts}))
same = circuits.PromptPairs.from_file("ioi_prompts.json", model)
assert same.clean == pairs.clean
assert same.answers == pairs.answers

eap = circuits.edge_attribution(model, same, gradient="clean")
for edges in (50, 100, 200):  # run_circuits, for each number of edges
    values = [float(circuits.circuit_metric(model, same, each.top(edges)).mean()) for each in (eap, scores)]
    print(f"{edges} edges: EAP {values[0]:.2f}, EAP-IG {values[1]:.2f}")

# %% [markdown]
# With a single gradient, EAP misjudges the edge `input->m0` of this model, and its circuits of this size do nothing: a warning
# says so when it scores. EAP-IG does not have this problem.
#
# `circuits.faithfulness_curves(model, pairs, scores)` makes the whole curve in one call, with CPR and CMD.

# %% [markdown]
# ## ACDC
#
# ```python
# exp = TLACDCExperiment(
#     model=tl_model, threshold=0.5, ds=clean_tokens, ref_ds=corrupted_tokens, metric=negative_logit_difference, zero_ablation=False
# )
# while exp.current_node is not None:
#     exp.step()
# print(exp.count_no_edges())
# ```
#
# | ACDC | here |
# |---|---|
# | `threshold=0.5` | `acdc(model, pairs, 0.5)`: an edge goes if removing it raises the loss by less |
# | `metric=` a loss, such as KL or minus the logit difference | `metric="kl_divergence"` or `"logit_difference"`; the sign is handled |
# | `zero_ablation=True` | `ablation="zero"` |
# | `abs_value_threshold=True` | `absolute=True` |
# | `exp.corr.all_edges()` | `circuit.edges` |
#
# The decisions are those of ACDC, edge for edge, on recorded runs of its code. Only what changed since the last test is computed
# again. `circuits.acdc_of_size(model, pairs, 100)` searches for a number of edges instead of a threshold.

# %%
late = 2 if SMOKE else 26  # edges into earlier layers are kept: for the sake of time
found = circuits.acdc(model, pairs, 0.5, start_layer=late)
kept = [edge for edge in found.edges if edge.endswith("->logits")]
print(len(found), "edges; into the logits:", kept)

# %% [markdown]
# ## TransformerLens
#
# A loaded model has the TransformerBridge of TransformerLens 4 in `model.bridge`, so all of its functions remain available:

# %%
import torch

tokens = torch.tensor([pairs[0].clean])
_, cache = model.bridge.run_with_cache(tokens)
print(cache["blocks.0.attn.hook_z"].shape)  # [batch, pos, head, d_head]

# %% [markdown]
# ```python
# from transformer_lens import patching
#
# _, clean_cache = model.run_with_cache(clean_tokens)
# effects = patching.get_act_patch_attn_head_out_all_pos(model, corrupted_tokens, clean_cache, logit_difference)
# by_position = patching.get_act_patch_attn_head_out_by_pos(model, corrupted_tokens, clean_cache, logit_difference)
# ```
#
# | TransformerLens | here |
# |---|---|
# | `get_act_patch_attn_head_out_all_pos` | `activation_patching(…, nodes="heads")` |
# | `get_act_patch_attn_head_out_by_pos` | `activation_patching(…, nodes="heads", positions="each")`; with `"roles"` prompts may differ in length |
# | `get_act_patch_mlp_out` | `activation_patching(…, nodes="mlps", positions="each")` |
# | `get_act_patch_attn_head_q_all_pos` | `activation_patching(…, nodes="q")` |
# | `tools.analysis.attribution_patch(model, clean, corrupt, metric)` | `attribution_patching` has the gradient at the clean run, TransformerLens at the corrupted run |
# | the same with `EdgeAttributionConfig(granularity="edge")` | `edge_attribution(…, gradient="corrupted")` sums over positions, and takes grouped-query attention |
#
# `get_act_patch_…` returns the metric of the patched run; here an effect is the difference from the corrupted run.

# %%
heads = circuits.activation_patching(model, pairs[:2], nodes=["a23.h3", "a24.h0", "a25.h0", "a26.h0", "a27.h0"])
heads.strongest(3)

# %% [markdown]
# By hand, with the bridge: the effect of one head is the metric with its value from the clean run, minus the metric of the
# corrupted run.


# %%
def metric_of(logits):
    pair = pairs[0]
    return float(logits[0, pair.position, pair.answers[0]] - logits[0, pair.position, pair.distractors[0]])


layer, head = map(int, heads.nodes[0].removeprefix("a").split(".h"))


def patched(value, hook):
    value[:, :, head] = cache[f"blocks.{layer}.attn.hook_z"][:, :, head]
    return value


corrupted = torch.tensor([pairs[0].corrupted])
with torch.no_grad():
    before = metric_of(model.bridge(corrupted))
    after = metric_of(model.bridge.run_with_hooks(corrupted, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", patched)]))
print(f"{heads.nodes[0]}: {after - before:.4f} by hand, {float(heads.per_prompt[0, 0]):.4f} by activation_patching")
assert abs(after - before - float(heads.per_prompt[0, 0])) < 1e-3
