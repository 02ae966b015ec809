"""Three published methods that are no part of the package, tried on the models whose circuits are known: docs/scoreboard.md.

    python benchmarks/tried.py [--pairs 8] [--fresh 16] [--models compiled/induction …] [--epochs 300] [--no-random]

EAP-GP (Zhang et al. 2025, 2502.06852): EAP-IG along another path of the embedding. From the clean embedding, each step has length 1 and
goes against the gradient of the squared distance of the logits from those of the corrupted prompt (eq. 8). Here: of the logits at the
answer position.

IBCircuit (Bian et al. 2025, 2602.22581): as its published code, a mask λ for each head and prompt mixes the head's output with noise of
the mean and the spread that it has over the prompts; trained on KL(model ‖ masked model) + the information that passes the masks. It
scores heads, and needs no corrupted prompts. AUROC over heads, against the heads that active edges touch.

CD-T (Hsu et al. 2024, 2407.00886): propagates a part of the activations through the model with attention patterns held fixed, so edges into
queries and keys score 0. Printed: the AUROC over all edges if every other edge were ranked perfectly.
"""

import argparse
import statistics
from functools import partial

import torch
from sklearn.metrics import roc_auc_score

import circuits
import tasks
from circuits import Circuit, EdgeScores, Model, PromptPairs
from circuits.engine.hooks import TokenBatch, inference_state
from circuits.engine.hooks import run as run_model
from circuits.measure.contraction import Contraction
from circuits.methods.gradient_rules import GRADIENTS
from tasks import compiled

STEPS = 5


def along_gradient_path(contraction: Contraction, rule: object) -> None:
    """EAP-GP: the mean gradient at the points of its path, times the writers' differences."""
    clean, replacement = contraction.clean_and_replacement()
    architecture, tokens = contraction.question.model.architecture, contraction.batch.suffix.clean_tokens
    start, total = architecture.blocks[0].resid_pre, contraction.sum()

    def logits(point: torch.Tensor) -> torch.Tensor:
        return run_model(architecture, tokens, [(start, lambda x: point)])

    with torch.no_grad():
        target = logits(replacement.embedding)
    point = clean.embedding
    for _ in range(STEPS):
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((logits(point) - target).square().sum(), point)
        size = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
        point = (point - gradient / size).detach()
        total.add(contraction.gradients(point), 1 / STEPS)
    contraction.add(total, contraction.difference(clean, replacement))


GRADIENTS["gradient-path"] = along_gradient_path
RULES = {"EAP": "clean", "EAP-IG": "ig", "GIM": "gim", "EAP-GP": "gradient-path"}


def scored(model: Model, pairs: PromptPairs, rule: str) -> EdgeScores:
    return circuits.edge_attribution(model, pairs, gradient=rule, check_sign=False)


def information_bottleneck(model: Model, pairs: PromptPairs, epochs: int) -> torch.Tensor:
    """IBCircuit's λ of every head, means over the prompts: learning rate 0.05, log-odds from 5, weights 1 and 1, as in its code."""
    architecture, graph = model.architecture, model.graph
    batch = max(pairs.batches(len(pairs)), key=lambda batch: len(batch.clean))  # those of the most common length
    tokens = TokenBatch(batch.clean, batch.position)
    generator = torch.Generator().manual_seed(0)
    shape = (graph.n_layers, len(batch.clean), graph.n_heads)
    theta = (5 + 0.01 * torch.randn(*shape, generator=generator)).requires_grad_()
    optimizer, information, tiny = torch.optim.Adam([theta], lr=0.05), [], 1e-7

    def masked(z: torch.Tensor, layer: int) -> torch.Tensor:
        kept = theta[layer].sigmoid()[:, None, :, None].to(z)
        spread, mean = torch.std_mean(z, dim=0)
        centre, width = kept * z + (1 - kept) * mean, (1 - kept) * spread
        ratio = ((centre - mean) / (spread + tiny)) ** 2 + (width / (spread + tiny)) ** 2
        information.append(0.5 * (ratio + ((spread / (width + tiny) + tiny) ** 2).log()).mean())
        return centre + width * torch.randn(mean.shape, generator=generator).to(z)

    hooks = [(block.z, partial(masked, layer=block.layer)) for block in architecture.blocks]
    with inference_state(model.bridge):
        clean = run_model(architecture, tokens).log_softmax(-1).detach()
        for _ in range(epochs):
            information.clear()
            with torch.enable_grad():
                log_p = run_model(architecture, tokens, hooks).log_softmax(-1)
                kl = torch.nn.functional.kl_div(log_p, clean, log_target=True, reduction="none").sum(-1).mean()
                loss = kl + torch.stack(information).mean()
                (theta.grad,) = torch.autograd.grad(loss, [theta])
            optimizer.step()
    return theta.detach().sigmoid().mean(1)


def heads_of(model: Model, values: torch.Tensor) -> torch.Tensor:
    """The parts of a vector over writers that belong to heads, [layer, head]."""
    return torch.stack([values[model.graph.head_writers(layer)] for layer in range(model.graph.n_layers)])


def area(truth: torch.Tensor, scores: torch.Tensor) -> float | None:
    both = bool(truth.any()) and not bool(truth.all())
    return float(roc_auc_score(truth.flatten().numpy(), scores.flatten().numpy())) if both else None


def one_model(name: str, arguments: argparse.Namespace) -> dict[str, float | None]:
    """AUROC, CPR and CMD of every method on a compiled model."""
    model = circuits.load_model(name)
    pairs = tasks.load(name).pairs(model, arguments.pairs)
    fresh = tasks.load(name).pairs(model, arguments.fresh, seed=10**9)
    active = Circuit.from_edges(model.graph, compiled.active_edges(model, pairs, "interchange"))
    result: dict[str, float | None] = {}
    for label, rule in RULES.items():
        scores = scored(model, pairs, rule)
        curves = circuits.faithfulness_curves(model, fresh, scores)
        result[f"{label}, AUROC"] = circuits.recovery(scores, active, level="edges").auroc
        result[f"{label}, CPR"], result[f"{label}, CMD"] = curves.cpr, curves.cmd
        if label in ("EAP-IG", "GIM"):
            touched = (scores.values.abs() * model.graph.edge_mask).amax(1)
            result[f"{label}, AUROC of heads"] = area(heads_of(model, active.mask.any(1)), heads_of(model, touched))
    result["IBCircuit, AUROC of heads"] = area(
        heads_of(model, active.mask.any(1)), information_bottleneck(model, pairs, arguments.epochs)
    )
    seen = torch.tensor([not edge.endswith(("<q>", "<k>")) for edge in model.graph.edges])
    truth = active.mask[model.graph.edge_mask]
    result["CD-T, most AUROC"] = area(truth, (truth & seen).double())
    return result


def random_models() -> dict[str, list[float]]:
    """AUROC against the tenth of the edges with the largest exact effects, on the random models of the scoreboard."""
    from estimators import random_hf_models

    generator = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(3, 100, (8, 8), generator=generator).tolist() for _ in range(2))
    pairs = PromptPairs.from_tokens(clean, corrupted, [5] * 8, [9] * 8)
    result: dict[str, list[float]] = {label: [] for label in RULES}
    for hf_model in random_hf_models().values():
        model = circuits.load_model(hf_model)
        exact = circuits.exact_edge_effects(model, pairs).to_scores()
        truth = exact.top(model.graph.n_edges // 10)
        for label, rule in RULES.items():
            result[label].append(circuits.recovery(scored(model, pairs, rule), truth, level="edges").auroc)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--fresh", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--models", nargs="*", default=[name for name in tasks.names() if name.startswith("compiled/")])
    parser.add_argument("--no-random", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = {name: one_model(name, arguments) for name in arguments.models}
    print(f"| | mean | {' | '.join(name.partition('/')[2] for name in table)} |\n{'|---' * (len(table) + 2)}|")
    for row in next(iter(table.values())):
        values = [result[row] for result in table.values()]
        known = [value for value in values if value is not None]
        cells = ["–" if value is None else f"{value:.2f}" for value in values]
        print(f"| {row} | {statistics.fmean(known):.3f} | {' | '.join(cells)} |")
    if not arguments.no_random:
        for label, areas in random_models().items():
            print(f"random models, {label}: AUROC {', '.join(f'{area:.3f}' for area in areas)}")


if __name__ == "__main__":
    main()
