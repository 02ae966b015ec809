"""How well a model does each task.

    python benchmarks/task_accuracy.py [--pairs 100] [--seed 0] [--model smollm2-135m]

Prints the table of docs/tasks.md: accuracy, and the mean of the metric on clean and on corrupted prompts (logit
difference; for greater-than the difference of probabilities), ± its standard error. Beside it what 100 pairs of the same
templates gave when they were chosen, from other draws and before the tasks were written.
"""

import argparse
import warnings

import torch

import circuits
import tasks
from circuits.evaluation.task import Mean

CHOSEN = {
    "ioi": (0.98, 5.55, -4.99),
    "ioi(counterfactual=abc)": (0.98, 5.55, 0.12),
    "greater-than": (1.0, 0.50, -0.83),
    "docstring": (0.94, 2.76, -2.83),
    "gendered-pronoun": (0.99, 4.36, -4.54),
    "subject-verb-agreement": (0.98, 3.41, -3.47),
    "induction": (1.0, 11.2, -11.4),
    "capital": (1.0, 11.7, -12.0),
    "successor": (1.0, 4.61, -4.54),
    "acronym": (1.0, 7.85, -7.71),
    "addition": (0.93, 5.45, -5.23),
    "hypernym": (0.99,),
    "antonym": (1.0,),
    "past-tense": (0.98,),
    "official-language": (1.0,),
    "open-bracket": (1.0,),
    "sentiment": (1.0,),
}


def mean(value: Mean) -> str:
    return f"{value.value:.2f} ± {value.stderr or 0:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2-135m")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    model = circuits.load_model(asked.model)
    shipped = [tasks.load(name) for name in tasks.BUILT_IN if name not in tasks.COMPILED]
    shipped += [tasks.load("ioi", counterfactual=kind) for kind in ("s2_to_third", "abc")]
    rank = {label: i for i, label in enumerate(CHOSEN)}
    print("| task | accuracy | clean | corrupted | flips | when chosen: accuracy, clean, corrupted |")
    print("|---|---|---|---|---|---|")
    for task in sorted(shipped, key=lambda task: rank.get(task.label, 1)):  # IOI's other corruption: second
        result = circuits.check_task(model, task, asked.pairs, asked.seed)
        assert result.accuracy is not None
        assert result.values is not None
        cells = [f"{result.accuracy.clean.value:.2f}", mean(result.values.clean), mean(result.values.corrupted)]
        before = ", ".join(f"{value:g}" for value in CHOSEN.get(task.label, ()))
        print(f"| {task.label} | {' | '.join(cells)} | {result.flips:.2f} | {before or '–'} |", flush=True)


if __name__ == "__main__":
    main()
