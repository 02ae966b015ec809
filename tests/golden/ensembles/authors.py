"""Makes values.json beside it: what the code of 2510.06811 (Mondorf et al. 2025) gives for random scores.

    git clone https://github.com/cisnlp/MIB-circuit-track (c18eb53)
    python tests/golden/ensembles/authors.py MIB-circuit-track      # an environment with torch and einops

It calls `parallel_ensembling_inner` (its ensembles), `scores_to_log_alphas` (its warm start of edge pruning) and `sample_z_from_u` (its
masks). Modules that only load models and files are replaced by empty ones: these functions do not use them.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch

HERE = Path(__file__).parent
MODELS = "edge_pruning.modeling"


def scores_of(generator):
    """Three methods' scores of five writers and four readers, of very different sizes."""
    return [size * torch.randn(5, 4, generator=generator, dtype=torch.float64) for size in (1.0, 0.03, 20.0)]


def main():
    sys.path.insert(0, sys.argv[1])
    for name in ("scripts.run_attribution", "scripts.run_evaluation", f"{MODELS}.modeling_fpt2",
                 f"{MODELS}.modeling_fqwen_kv_expansion"):  # fmt: skip
        sys.modules[name] = MagicMock()
    from edge_pruning.importance_scores.scores_to_logalphas import WarmstartOptions, scores_to_log_alphas
    from edge_pruning.modeling.l0 import sample_z_from_u
    from parallel.parallel import parallel_ensembling_inner

    generator = torch.Generator().manual_seed(0)
    scores = scores_of(generator)
    found = {"scores": [one.tolist() for one in scores]}
    for sign, members in {"signed": scores, "absolute": [one.abs() for one in scores]}.items():
        for how in ("mean", "max", "min"):
            options = SimpleNamespace(normalize_incoming=False, reduction=how)
            graphs = [SimpleNamespace(scores=one.clone()) for one in members]
            found[f"{how}, {sign}"] = parallel_ensembling_inner(options, graphs).scores.tolist()
    # Edges of one layer: it ranks the edges into each layer separately, and the logits.
    edges = {(f"w{i}", f"m{0}"): value for i, value in enumerate(scores[0].flatten().tolist())}
    options = WarmstartOptions(mode="absolute", start_edge_sp=0.9, tau_init=0.25)
    found["warm start"] = list(scores_to_log_alphas(edges, options).values())
    uniform = torch.rand(40, generator=generator, dtype=torch.float64)
    log_alpha = 3 * torch.randn(40, generator=generator, dtype=torch.float64)
    found |= {"uniform": uniform.tolist(), "log_alpha": log_alpha.tolist()}
    found["masks"] = sample_z_from_u(uniform, log_alpha).clamp(0, 1).tolist()
    (HERE / "values.json").write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
