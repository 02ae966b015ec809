"""Long prompts: tokens against peak memory and against the time of the model's own forward passes.

    python benchmarks/long_prompts.py [--tokens 256 512 1024 2048 4096] [--methods EAP AtP …] [--memory 2GB] [--device cpu]
                                      [--pairs 2] [--figure runs/long.html]

SmolLM2-135M, two pairs of random tokens that differ everywhere, each measurement in a process of its own. Memory is what rises above
the loaded model (resident memory, or allocated memory of a CUDA device), and does not depend on what else the machine does. Time is
in forward passes of the bridge over the same two prompts, both measured in this process.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import DEVICE, THREADS, peak_bytes, random_pairs, wait

import circuits
from circuits.question.batch_memory import estimate
from circuits.question.question import Question

GB = 1e9
Work = Callable[[circuits.Model, circuits.PromptPairs], object]


def _small_circuit(model: circuits.Model, share: float = 0.01) -> circuits.Circuit:
    drawn = torch.rand(model.graph.edge_mask.shape, generator=torch.Generator().manual_seed(0)) < share
    return circuits.Circuit(model.graph, drawn & model.graph.edge_mask)


def _last_layer(model: circuits.Model, pairs: circuits.PromptPairs) -> object:
    """ACDC's tests of the last two layers."""
    return circuits.acdc(model, pairs, threshold=0.01, start_layer=model.graph.n_layers - 2)


METHODS: dict[str, Work] = {
    "circuit of 1%": lambda m, p: circuits.circuit_metric(m, p, _small_circuit(m)),
    "EAP": lambda m, p: circuits.edge_attribution(m, p, gradient="clean", check_sign=False),
    "EAP-IG, 2 steps": lambda m, p: circuits.edge_attribution(m, p, steps=2),
    "AtP, each position": lambda m, p: circuits.attribution_patching(m, p, positions="each"),
    "AtP*": lambda m, p: circuits.atp_star(m, p),
    "COAR, 4 samples": lambda m, p: circuits.coar(m, p, samples=4, fit="ridge"),
    "ACDC, 2 layers": _last_layer,
}


def measure(method: str, tokens: int, n: int, memory: str | None) -> dict[str, float | int | bool]:
    """One measurement, in this process."""
    torch.set_num_threads(THREADS)
    model = circuits.load_model("smollm2-135m", memory=memory, device=DEVICE)
    few, pairs = random_pairs(model, n, 16), random_pairs(model, n, tokens)
    METHODS[method](model, few)  # loads code and touches the weights

    def forwards() -> None:
        with torch.no_grad():
            for prompt in pairs.clean:
                model.bridge(torch.tensor([prompt], device=model.device), return_type="logits", use_cache=False)

    seconds = []
    for work in (forwards, lambda: METHODS[method](model, pairs)):
        wait()
        start = time.perf_counter()
        peak = peak_bytes(work)
        wait()
        seconds.append(time.perf_counter() - start)
    question = Question.ask(model, pairs)
    expected, again = estimate(model, pairs, question.batch_size)
    return {
        "peak": peak, "forwards": seconds[1] / seconds[0], "estimate": expected, "recomputed": again,
        "batch": question.batch_size,
    }  # fmt: skip


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Two panels: tokens against peak memory, and against forward passes."""
    from plotly.subplots import make_subplots

    figure = make_subplots(cols=2, subplot_titles=["peak memory besides the weights (GB)", "forward passes"])
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        for column, key in enumerate(("peak", "forwards"), 1):
            values = [float(row[key]) / (GB if key == "peak" else 1) for row in mine]  # type: ignore[arg-type]
            figure.add_scatter(
                x=[row["tokens"] for row in mine], y=values, name=method, legendgroup=method, showlegend=column == 1,
                row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title="tokens", type="log")
    figure.update_yaxes(type="log")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path, include_plotlyjs=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--memory", help="the budget, such as 2GB; default: 60%% of what is free")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="an HTML file")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.methods[0], options.tokens[0], options.pairs, options.memory)))
        return
    print(f"{DEVICE}, {THREADS} threads, {options.pairs} pairs, budget {options.memory or '60% of what is free'}")
    print("| method | tokens | pairs at a time | blocks computed again | estimate, GB | peak, GB | forward passes |")
    print("|---|---|---|---|---|---|---|", flush=True)
    rows: list[dict[str, object]] = []
    for method in options.methods:
        for tokens in options.tokens:
            command = [
                sys.executable,
                __file__,
                "--one",
                "--methods",
                method,
                "--tokens",
                str(tokens),
                "--pairs",
                str(options.pairs),
            ]
            command += ["--memory", options.memory] if options.memory else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = ((done.stderr or "").strip().splitlines() or ["killed: no memory"])[-1]
                print(f"| {method} | {tokens:,} | failed: {reason} |", flush=True)
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append({"method": method, "tokens": tokens, **row})
            print(
                f"| {method} | {tokens:,} | {row['batch']} | {'yes' if row['recomputed'] else 'no'} | "
                f"{row['estimate'] / GB:.2f} | {row['peak'] / GB:.2f} | {row['forwards']:.1f} |",
                flush=True,
            )
    if options.figure is not None:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
