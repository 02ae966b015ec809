"""AtP, its two fixes and AtP* against exact patching: prints the table of docs/atp_star.md.

python docs/atp_star.py    # some minutes on one CPU core
"""

import torch
from scipy.stats import spearmanr

import circuits
import tasks

METHODS = {"AtP": (False, False), "QK fix": (True, False), "GradDrop": (False, True), "AtP*": (True, True)}
KINDS = {"queries": "q", "keys": "k", "values": "v", "heads": "heads", "MLPs": "mlps"}


def main() -> None:
    torch.set_num_threads(1)
    model = circuits.load_model("smollm2-135m")
    pairs = tasks.load("ioi").pairs(model, n=8, seed=0)
    print("| nodes | " + " | ".join(METHODS) + " |")
    for kind, nodes in KINDS.items():
        exact = circuits.activation_patching(model, pairs, nodes=nodes, direction="noising").contributions
        cells = []
        for qk_fix, grad_drop in METHODS.values():
            scores = circuits.atp_star(model, pairs, nodes=nodes, positions=False, qk_fix=qk_fix, grad_drop=grad_drop)
            top = exact.topk(len(exact) // 10).indices
            missed = float((exact / scores.contributions)[top].max())
            cells.append(f"{spearmanr(scores.contributions, exact).statistic:.3f}, {missed:.1f} ×")
        print(f"| {len(exact)} {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
