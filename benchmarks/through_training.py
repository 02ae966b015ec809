"""When does the circuit of a trained model appear, against when its loss drops?

    python benchmarks/through_training.py [--steps 0 50 100 …]

The induction model (`tasks.trained`) is trained as its script does, and copied at some steps. The circuit of the last copy is
tested in every earlier one (`circuits.transfer`): faithfulness, edges that changed, and heads that are matched by function.
"""

import argparse
import time
import warnings

import circuits
from circuits import Model
from tasks.trained.induction import TrainedInduction, parameters, untrained
from tasks.trained.train import train

STEPS = (0, 50, 100, 150, 200, 250, 300, 400, 500, 750, 1000, 1500)


def copied(weights: dict) -> Model:
    """A model with these weights."""
    bridge = untrained(0)
    for name, parameter in parameters(bridge).items():
        parameter.data.copy_(weights[name])
    return circuits.load_model(bridge)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--edges", type=int, default=20)
    parser.add_argument("--n", type=int, default=24)
    asked = parser.parse_args()
    warnings.simplefilter("ignore", circuits.PairsWarning)  # the first models do not do the task
    start = time.perf_counter()
    kept, losses = {0: {name: value.detach().clone() for name, value in parameters(untrained(0)).items()}}, {}

    def keep(step: int, loss: float, bridge: object) -> None:
        losses[step] = loss
        if step in asked.steps:
            kept[step] = {name: value.detach().clone() for name, value in parameters(bridge).items()}

    train(at=keep)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    last = max(kept)
    models = {step: copied(weights) for step, weights in kept.items()}
    pairs = TrainedInduction().pairs(models[last], n=asked.n, seed=1)
    scores = {step: circuits.edge_attribution(model, pairs, gradient="ig", steps=5) for step, model in models.items()}
    circuit = scores[last].top(asked.edges)
    print(
        f"the circuit after {last} steps: {len(circuit)} edges, heads {', '.join(n for n in circuit.nodes if n[0] == 'a')}"
    )
    print(
        "| step | loss | accuracy | logit difference | faithfulness of the last circuit | random circuits | edges shared by the strongest | edges changed | heads matched to themselves |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for step, model in models.items():
        result = circuits.transfer(
            circuit, model, pairs, model_a=models[last], scores_a=scores[last], scores_b=scores[step], n_random=10
        )
        faith = result.faithfulness
        accuracy = circuits.check_pairs(model, pairs).accuracy.clean.value
        own = scores[step].top(asked.edges)
        matched = result.matched or ()
        same = sum(head.clear and head.head == head.match for head in matched)
        window = [losses[s] for s in range(max(1, step - 9), step + 1) if s in losses]
        loss = f"{sum(window) / len(window):.2f}" if window else "–"
        print(
            f"| {step} | {loss} | {accuracy:.2f} | {float(faith.clean.mean()):.2f} | {faith.value:.2f} | {faith.random_value:.2f} | "
            f"{len(own & circuit)} of {len(circuit)} | {len(result.changed or ())} | {same} of {len(matched)} |", flush=True
        )  # fmt: skip


if __name__ == "__main__":
    main()
