"""COAR-Edit on SmolLM2-135M: make it forget one capital, and mend its errors on one task, without hurting the rest.

    python benchmarks/coar_edit.py [--samples 800] [--store DIR]

Components are whole heads and MLPs, ablated by zero; components are chosen on some prompts and judged on others. Some 20
minutes on 2 cores.
"""

import argparse
from pathlib import Path

import torch
from measuring import THREADS

import circuits
import tasks
from circuits import PromptPairs
from tasks.words import CAPITALS

KS = (0, 1, 2, 3, 5, 8, 12)
FORGOTTEN = "France"
TEMPLATES = (
    "The capital of {x} is",
    "The capital city of {x} is",
    "In {x}, the capital is",
    "Question: what is the capital of {x}? Answer:",
)
"""The first two to choose components by, the others to judge them."""


def capitals(model: circuits.Model, countries: list[tuple[str, str]], templates: tuple[str, ...]) -> PromptPairs:
    """Each country in each template; the distractor is the next country's capital."""
    clean, corrupted, answers, distractors = [], [], [], []
    for i, (country, capital) in enumerate(countries):
        other, wrong = countries[(i + 1) % len(countries)]
        for template in templates:
            clean.append(model.encode(template.format(x=country)))
            corrupted.append(model.encode(template.format(x=other)))
            answers.append([model.tokenizer(f" {capital}", add_special_tokens=False)["input_ids"][0]])
            distractors.append([model.tokenizer(f" {wrong}", add_special_tokens=False)["input_ids"][0]])
    return PromptPairs.from_tokens(clean, corrupted, answers, distractors)


def single_tokens(model: circuits.Model, most: int = 15) -> list[tuple[str, str]]:
    """Countries whose name and capital are one token each."""

    def single(word: str) -> bool:
        return len(model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1

    return [row for row in CAPITALS if all(map(single, row))][:most]


def edited(
    model: circuits.Model,
    title: str,
    target: PromptPairs,
    reference: PromptPairs,
    judged: dict[str, PromptPairs],
    raises: bool,
    samples: int,
    store: Path | None,
) -> None:
    """Plans an edit and prints what it does."""
    stores = [None if store is None else store / f"{title}-{part}" for part in ("target", "reference")]
    linear = [
        circuits.coar(model, pairs, samples=samples, fit="ridge", store=where)
        for pairs, where in zip((target, reference), stores, strict=True)
    ]
    edit = circuits.plan_edit(linear[0], linear[1], raises=raises)
    outcome = circuits.apply_edit(model, edit, {"targets": target, "references": reference, **judged}, ks=KS)
    print(f"\n### {title}\n\nAblated, in this order: {', '.join(outcome.nodes)}.\n")
    print("| mean logit difference (accuracy) | " + " | ".join(f"k = {k}" for k in KS) + " |\n|---|" + "---|" * len(KS))
    for name in outcome.metric:
        cells = zip(outcome.mean(name).tolist(), outcome.accuracy(name).tolist(), strict=True)
        print(
            f"| {name} ({outcome.metric[name].shape[1]}) | "
            + " | ".join(f"{m:+.2f} ({a:.2f})" for m, a in cells)
            + " |"
        )


def forget(model: circuits.Model, samples: int, store: Path | None) -> None:
    """One capital is to go, the others are to stay."""
    countries = single_tokens(model)
    one = next(i for i, (country, _) in enumerate(countries) if country == FORGOTTEN)
    order = countries[one:] + countries[:one]
    half = 1 + (len(order) - 1) // 2
    first, last = TEMPLATES[:2], TEMPLATES[2:]

    def of_target(templates: tuple[str, ...]) -> PromptPairs:
        return capitals(model, order, templates)[: len(templates)]

    judged = {
        f"{FORGOTTEN}, other wordings": of_target(last),
        "other countries, other wordings": capitals(model, order[half:], last),
        "IOI": tasks.load("ioi").pairs(model, n=16, seed=5),
        "subject-verb agreement": tasks.load("subject-verb-agreement").pairs(model, n=16, seed=5),
    }
    reference = capitals(model, order[1:half], first)
    edited(model, f"Forget the capital of {FORGOTTEN}", of_target(first), reference, judged, False, samples, store)


def mend(model: circuits.Model, samples: int, store: Path | None) -> None:
    """Errors on a task are to become right answers."""
    task = tasks.load("subject-verb-agreement")
    pairs = task.pairs(model, n=400, seed=0)
    right = circuits.circuit_metric(model, pairs, circuits.Circuit.full(model.graph)) > 0
    wrong = [i for i, ok in enumerate(right.tolist()) if not ok]
    fine = [i for i, ok in enumerate(right.tolist()) if ok]
    if len(wrong) < 4:
        print(f"\n{task.name}: only {len(wrong)} of {len(pairs)} pairs are wrong; nothing to mend")
        return
    half = min(8, len(wrong) // 2)
    judged = {
        "errors not used": pairs[wrong[half:]],
        "right answers not used": pairs[fine[16:48]],
        "IOI": tasks.load("ioi").pairs(model, n=16, seed=5),
        "capitals": tasks.load("capital").pairs(model, n=16, seed=5),
    }
    title = f"Mend {task.title.lower()}: {len(wrong)} of {len(pairs)} pairs are wrong"
    edited(model, title, pairs[wrong[:half]], pairs[fine[:16]], judged, True, samples, store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=800)
    parser.add_argument("--store", type=Path, help="a directory for finished samples")
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    model = circuits.load_model("smollm2-135m")
    forget(model, asked.samples, asked.store)
    mend(model, asked.samples, asked.store)


if __name__ == "__main__":
    main()
