"""COAR: what a sample costs, what a fit costs, and how well each method's scores predict fresh ablations.

    python benchmarks/coar.py [--samples 2000] [--pairs 16] [--fresh 200] [--store DIR] [--picture docs/coar.png]

SmolLM2-135M. The first part takes a minute; the second, on IOI under zero ablation, some 15 minutes at 2,000 samples.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial

import torch
from measuring import PAIRS, THREADS, medians, peak_bytes, random_pairs

import circuits
import tasks
from circuits.engine.hooks import inference_state
from circuits.measure.component_runs import ComponentRuns
from circuits.measure.component_samples import BLOCK, Sampler, draw_block
from circuits.methods.coar import fit_samples
from circuits.pages.comparison import learning_curve_figure, prediction_figure
from circuits.question.question import Question
from circuits.stats.linear_fit import fit_linear


def cost(model: circuits.Model) -> None:
    """A sample against a plain forward pass of the same prompts; memory against the number of samples; the fit."""
    pairs = random_pairs(model)
    sampler = Sampler.for_question(Question.ask(model, pairs, None, "zero", PAIRS), "heads+mlps")
    masks = draw_block(len(sampler.nodes), 0, 0.1, 0)[:4]
    with inference_state(model.bridge), torch.no_grad():
        batch = next(iter(sampler.question.batches()))
        runs = ComponentRuns.prepare(sampler.question, batch, sampler.replacements)
        tokens = batch.suffix.clean.repeat(len(masks), 1)
        works = {"plain": partial(model.bridge, tokens), "ablated": partial(runs.metrics, masks)}
        seconds = medians(works)
    print(f"a sample: {seconds['ablated'] / seconds['plain']:.2f} plain forward passes of its prompts")
    with tempfile.TemporaryDirectory() as folder:

        def draw(samples: int) -> None:
            circuits.draw_samples(model, random_pairs(model, 4, 8), f"{folder}/{samples}", samples=samples)

        draw(BLOCK)
        few = peak_bytes(partial(draw, 4 * BLOCK))
        print(f"8 times as many samples: {peak_bytes(partial(draw, 32 * BLOCK)) / few:.2f} times the memory")
    kept = torch.cat([~draw_block(300, block, 0.1, 0) for block in range(125)]).double()
    start = time.perf_counter()
    fit_linear(kept, torch.randn(len(kept), 16, dtype=torch.float64))
    print(f"300 components, 2,000 samples, 16 prompts: fitted in {time.perf_counter() - start:.2f} s")


def predictions(
    model: circuits.Model, samples: int, n: int, fresh: int, store: str | None, picture: str | None
) -> None:
    """Counterfactual correlations of COAR and of other methods' scores."""
    pairs = tasks.load("ioi").pairs(model, n=n, seed=0)
    start = time.perf_counter()
    scores = {
        f"COAR, {samples} samples": circuits.coar(model, pairs, samples=samples, store=store),
        "leave-one-out": circuits.leave_one_out(model, pairs, store=store),
        "gradient × parameter": circuits.gradient_times_parameter(model, pairs),
        "neuron conductance": circuits.neuron_conductance(model, pairs),
        "internal influence": circuits.internal_influence(model, pairs),
        "AtP, interchange": circuits.attribution_patching(model, pairs),
        "activation patching, interchange": circuits.activation_patching(model, pairs, direction="noising"),
        "EAP-IG, zero, summed to nodes": circuits.edge_attribution(model, pairs, ablation="zero").to_nodes(),
        "EAP, zero, summed to nodes": circuits.edge_attribution(
            model, pairs, ablation="zero", gradient="clean", check_sign=False
        ).to_nodes(),
    }
    alphas = (0.02, 0.05, 0.1, 0.2, 0.3)
    judge = circuits.counterfactuals(model, pairs, alphas=alphas, samples=fresh, store=store)
    print(
        f"\nIOI, {n} pairs, zero ablation, {fresh} fresh samples at each alpha ({time.perf_counter() - start:.0f} s)\n"
    )
    print("| Pearson, mean over prompts (95%) | " + " | ".join(f"α = {a:g}" for a in alphas) + " |")
    print("|---|" + "---|" * len(alphas))
    for name, values in scores.items():
        result = judge.correlations(values)
        print(
            f"| {name} | " + " | ".join(f"{c.mean:.2f} ({c.low:.2f} to {c.high:.2f})" for c in result.values()) + " |"
        )
    linear = scores[f"COAR, {samples} samples"]
    assert isinstance(linear, circuits.LinearAttribution)
    print(f"\nfit: { {name: value for name, value in linear.fit.items() if name != 'interactions'} }")
    print(
        "\npairs that the sum does not describe: "
        + ", ".join(
            f"{p.first}, {p.second} {p.effect:+.2f} ± {p.stderr:.2f} (p {p.p:.2g})" for p in linear.interactions[:5]
        )
    )
    sizes, curve = learning_curve(model, pairs, samples, judge, store)
    print("\n| samples | " + " | ".join(map(str, sizes)) + " |\n|---|" + "---|" * len(sizes))
    print("| Pearson at α = 0.1 | " + " | ".join(f"{r:.2f}" for r in curve) + " |")
    if picture is not None:
        draw(judge, {name: scores[name] for name in list(scores)[:3]}, sizes, curve, picture)


def learning_curve(
    model: circuits.Model, pairs: circuits.PromptPairs, samples: int, judge: circuits.Counterfactuals, store: str | None
) -> tuple[list[int], list[float]]:
    """The correlation on fresh ablations of fits to the first samples; the samples come from the store."""
    drawn = Sampler.for_question(Question.ask(model, pairs, None, "zero"), "heads+mlps", store).bernoulli(
        samples, 0.1, 0
    )
    sizes = [n for n in (200, 400, 700, 1000, 1500, 2000, 3000, 5000) if n <= samples]
    result = []
    for n in sizes:
        part = replace(drawn, ablated=drawn.ablated[:n], outcomes=drawn.outcomes[:n])
        result.append(judge.correlations(fit_samples(part))[0.1].mean)
    return sizes, result


def draw(
    judge: circuits.Counterfactuals,
    scores: dict[str, circuits.NodeScores],
    sizes: list[int],
    curve: list[float],
    path: str,
) -> None:
    """Predicted against true, and correlation against the number of samples: two pictures."""
    prediction_figure(judge, scores, 0.1).write_image(path, scale=1.5)
    learning_curve_figure(sizes, curve, 0.1).write_image(path.replace(".png", "-samples.png"), scale=1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("samples", 2000), ("pairs", 16), ("fresh", 200)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--store", help="a directory for finished samples")
    parser.add_argument("--picture", help="where to draw; needs the extra `viz`")
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    model = circuits.load_model("smollm2-135m")
    cost(model)
    predictions(model, asked.samples, asked.pairs, asked.fresh, asked.store, asked.picture)


if __name__ == "__main__":
    main()
