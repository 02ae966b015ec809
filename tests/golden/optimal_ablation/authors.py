"""Makes values.json beside it: what the code of 2409.09951 (Li & Janson 2024) gives for masks and for constants.

    git clone https://github.com/maxtli/optimalablation (ac02e85)
    python tests/golden/optimal_ablation/authors.py optimalablation     # the environment of ../gim/authors.py

`masks`: `EdgeMaskUnifSampler` (uniform gradient sampling) with given uniform numbers: the masks, and the gradient of a weighted sum of
them with and without its division by the number of masks that were sampled. `losses`: `VertexPruner` with `SingleComponentMaskSampler`,
as `ablation_loss.py` calls them: the KL of every component alone at a constant, and the gradient of its mean in the constants, for the
GPT-2 of ../gim. Modules that plot, load data or
need a GPU when they are imported are replaced by empty ones: these classes do not use them.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch

HERE = Path(__file__).parent


def masks(sampler_class, generator):
    n_samples, n_edges = 50, 12
    start = 2 * torch.randn(n_edges, 1, generator=generator, dtype=torch.float64)
    config = SimpleNamespace(n_samples=n_samples, batch_size=1, device="cpu", init_params={"edges": [start]})
    uniform = torch.rand(n_samples, n_edges, generator=generator, dtype=torch.float64)
    weights = torch.randn(n_samples, n_edges, generator=generator, dtype=torch.float64)
    found = {"theta": start[:, 0].tolist(), "uniform": uniform.tolist(), "weights": weights.tolist()}
    drawn, torch.rand = torch.rand, lambda *size, **options: uniform
    try:
        for name, normalised in {"as sampled": False, "divided": True}.items():
            sampler = sampler_class(config)
            sampler.normalize_empirical_mask = normalised
            sampler.sample_mask()
            (mask,) = sampler.sampled_mask["edges"]
            (gradient,) = torch.autograd.grad((mask * weights).sum(), list(sampler.sampling_params["edges"]))
            found["masks"] = mask.tolist()
            found[f"gradient, {name}"] = gradient[:, 0].tolist()
    finally:
        torch.rand = drawn
    return found


def losses(pruner_class, sampler_class, generator):
    sys.path.insert(0, str(HERE.parent / "gim"))
    from authors import LAYERS, MODELS, VOCABULARY, WIDTH, hooked, hugging_face

    kind, convert, options = MODELS["gpt2"]
    model = hooked(kind, convert, hugging_face(kind, options))
    model.set_use_attn_result(False)
    model.set_use_split_qkv_input(False)
    model.set_use_hook_mlp_in(False)
    heads, batch = model.cfg.n_heads, 3
    nodes = {"attn": [torch.ones(heads, 1) for _ in range(LAYERS)], "mlp": [torch.ones(1, 1)[0] for _ in range(LAYERS)]}
    config = SimpleNamespace(batch_size=batch, device="cpu", init_params=nodes, n_samples=0)
    sampler = sampler_class(config)
    config.n_samples = sampler.n_components
    attention, mlp = (
        0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((LAYERS, heads, model.cfg.d_head), (LAYERS, WIDTH))
    )
    pruner = pruner_class(model, config, sampler, init_modes=(attention, mlp))
    pruner.add_patching_hooks()
    tokens = torch.randint(3, VOCABULARY, (batch, 6), generator=generator)
    last = torch.tensor([5, 4, 5])
    kl, _ = pruner(tokens, last, timing=False, print_loss=False, separate_loss=True)
    constants = [pruner.modal_attention, pruner.modal_mlp]
    gradients = torch.autograd.grad(kl.mean(), constants)
    return {
        "tokens": tokens.tolist(), "last": last.tolist(), "attention": attention.tolist(), "mlp": mlp.tolist(),
        "losses": kl.tolist(), "gradients": [one.tolist() for one in gradients],
    }  # fmt: skip


def main():
    import transformer_lens  # noqa: F401 - before the replacements, which it would take for installed packages

    for name in ("seaborn", "matplotlib", "matplotlib.pyplot", "utils.circuit_utils", "utils.data", "gim"):
        sys.modules[name] = MagicMock()
    sys.path.insert(0, sys.argv[1])
    from mask_samplers.AblationMaskSampler import SingleComponentMaskSampler
    from mask_samplers.EdgeMaskSampler import EdgeMaskUnifSampler
    from pruners.VertexPruner import VertexPruner

    found = {"masks": masks(EdgeMaskUnifSampler, torch.Generator().manual_seed(0))}
    found["losses"] = losses(VertexPruner, SingleComponentMaskSampler, torch.Generator().manual_seed(1))
    (HERE / "values.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
