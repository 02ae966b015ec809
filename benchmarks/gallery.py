"""The gallery of descriptions, docs/gallery.md: what each part of seven circuits of SmolLM2-135M does.

    python benchmarks/gallery.py [--tasks ioi,capital] [--edges 60] [--store build/gallery] [--kinds]

EAP-IG (midpoint, 5 steps) on 8 pairs of each task, the strongest edges, `circuits.describe`. What was measured is kept in the store,
and not measured again.
"""

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from measuring import THREADS

import circuits
import tasks
from circuits.files.atomic import write_text

TASKS = ("ioi", "greater-than", "induction", "docstring", "subject-verb-agreement", "capital", "successor")
PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"
N, SHOWN, HEADS = 8, 3, 4
INTRODUCTION = """# Gallery of descriptions

What `circuits describe` says about circuits of SmolLM2-135M: for each task the {edges} strongest edges of EAP-IG (midpoint rule, 5
steps) on {n} pairs. This page is written by `python benchmarks/gallery.py --kinds`; nothing in it is edited by hand.
[What each part does](descriptions.md) explains the numbers: `null` is the mean score of rotated heads, `p` its p value, and
`uniform` the attention that uniform attention would give to each token. The page shows the lines of nodes with a kind,
and of the {shown} other nodes with the largest direct effects. Of the remaining nodes it gives the number.
"""
KINDS = """## Heads by kind

On random repeated sequences, without a task: the {heads} heads with the highest score of each kind among those that have it (p at
most 0.05, and 0.2 above the mean of the null), with standard errors over the sequences, and how many heads have it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--edges", type=int, default=60)
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--store", type=Path, default=Path("build/gallery"))
    parser.add_argument("--kinds", action="store_true", help="add the heads of each kind on random sequences")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    given.store.mkdir(parents=True, exist_ok=True)
    parts = [INTRODUCTION.format(edges=given.edges, n=N, shown=SHOWN)]
    parts += [section(kept(given.store, name, given.edges)) for name in given.tasks.split(",")]
    parts += [kinds_section(kept(given.store, "kinds", 0))] if given.kinds else []
    write_text(given.out, "\n".join(parts))


def kept(store: Path, name: str, edges: int) -> dict[str, Any]:
    """What was measured of a task, or of all heads (`kinds`)."""
    path = store / f"{name}-{edges}.json"
    if not path.is_file():
        start = time.perf_counter()
        measured = kinds_measured() if name == "kinds" else task_measured(name, edges)
        write_text(path, json.dumps(measured, indent=1))
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return {"name": name, **json.loads(path.read_text(encoding="utf-8"))}


@cache
def smollm2() -> circuits.Model:
    return circuits.load_model("smollm2-135m")


def task_measured(name: str, edges: int) -> dict[str, Any]:
    model, task = smollm2(), tasks.load(name)
    pairs = task.pairs(model, n=N)
    circuit = circuits.edge_attribution(model, pairs, gradient="ig", steps=5).top(edges)
    description = circuits.describe(model, pairs, circuit)
    score = circuits.faithfulness(model, pairs, circuit, n_random=0)
    return {"name": name, "title": task.title, "prompt": pairs.texts[0][0], "answers": answers(model, pairs), "nodes": len(circuit.nodes) - 1,
            "faithfulness": score.value, "description": description.to_dict()}  # fmt: skip


def answers(model: circuits.Model, pairs: circuits.PromptPairs) -> list[str]:
    """The first pair's first answer and first distractor."""
    return [model.tokenizer.decode([ids[0]]) for ids in (pairs.answers[0], pairs.distractors[0])]


def kinds_measured() -> dict[str, Any]:
    kinds = circuits.head_kinds(smollm2(), draws=19)
    result = [[kind in kinds.significant(head) for head in kinds.heads] for kind in kinds.kinds]
    rows = [
        row | {"has": result[kinds.kinds.index(row["kind"])][kinds.heads.index(row["head"])]} for row in kinds.rows()
    ]
    return {"rows": rows, "heads": len(kinds.heads)}


def kinds_section(measured: dict[str, Any]) -> str:
    lines = [
        KINDS.format(heads=HEADS),
        "| kind | heads that have it | highest scores | mean of the null |",
        "|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in measured["rows"]):
        rows = [row for row in measured["rows"] if row["kind"] == kind and row["has"]]
        best = sorted(rows, key=lambda row: -row["score"])[:HEADS]
        shown = ", ".join(f"`{row['head']}` {row['score']:.2f} ± {row['stderr']:.2f}" for row in best)
        null = sum(row["null"] for row in best) / len(best) if best else float("nan")
        lines.append(
            f"| {kind} | {len(rows)} of {measured['heads']} | {shown or '–'} | {f'{null:.2f}' if best else '–'} |"
        )
    return "\n".join([*lines, ""])


def section(measured: dict[str, Any]) -> str:
    """One task's part of the page."""
    description = measured["description"]
    size = {line["node"]: abs(line["evidence"]["direct effect"]) for line in description["lines"]}
    others = sorted(
        (line for line in description["lines"] if line["label"] is None), key=lambda line: -size[line["node"]]
    )
    shown = [line for line in description["lines"] if line["label"] is not None or line in others[:SHOWN]]
    held = sum(test["outcome"] == "held" for test in description["tests"])
    right, wrong = measured["answers"]
    lines = [
        f"## {measured['title']}", "", "```text", measured["prompt"], "```", "", f"→ `{right.strip()}`, not `{wrong.strip()}`", "",
        f"{measured['nodes']} nodes; faithfulness {measured['faithfulness']:.2f} (interchange).", "",
        *(f"- **{line['node']}**: {line['text'].partition(': ')[2]}" for line in shown), "",
        f"Other nodes, not shown: {len(description['lines']) - len(shown)}.", "",
        *(f"Group **{label}**: {', '.join(nodes)}.\n" for label, nodes in description["groups"].items()),
        *([NOTES[measured["name"]](description)] if measured["name"] in NOTES else []),
        f"**Tests**: {held} of {len(description['tests'])} held.", "",
        *(f"- {test['node']}, {test['outcome']}: {test['statement']} ({numbers(test)})" for test in description["tests"]), "",
        "**Not determined**", "", *(f"- {text}" for text in description["unsaid"]), "",
    ]  # fmt: skip
    return "\n".join(line.replace("<", "&lt;").replace("|", "\\|") for line in lines)


def beside_gpt2(description: dict[str, Any]) -> str:
    """IOI's parts beside those that Wang et al. 2022 found in GPT-2 small."""
    lines = {line["node"]: line for line in description["lines"]}
    labels = description["labels"]

    def named(kind: str) -> str:
        return listed([node for node, line in lines.items() if labels.get(node) == kind])

    def listed(nodes: list[str]) -> str:
        return ", ".join(f"`{node}`" for node in nodes) or "no head"

    def effect(node: str) -> float:
        return lines[node]["evidence"]["direct effect"]

    movers = [node for node in lines if labels.get(node) == "name mover"]
    inhibition = [node for node in lines if labels.get(node) == "S-inhibition"]
    fed = [node for node in movers if set(lines[node]["reads"].get("q", ())) & set(inhibition)]
    largest = max((node for node in lines if node[0] == "a"), key=lambda node: abs(effect(node)))
    most = max((abs(effect(node)) for node in inhibition), default=0.0)
    return (
        f"**Compared with GPT-2 small** (Wang et al. 2022). *The same:* {named('prefix matching')} looks from the repeated name S2 at the token "
        f"after S1, as GPT-2's induction heads do. {listed(inhibition)} (S-inhibition) look from the end at S2, write at most {most:.2f} "
        f"logits to the metric themselves, and feed the queries of {listed(fed)}. The name movers {listed(movers)} look at IO and copy it; "
        f"{named('negative mover')} looks at IO and writes against it. *Different:* the head with the largest direct effect is "
        f"`{largest}` ({effect(largest):+.2f} logits, {labels.get(largest, 'without a kind')}). Heads that look at S2 and write against "
        f"that name ({named('wrong-answer suppressor')}) have no counterpart in Wang et al.'s circuit. In this circuit, "
        f"{named('duplicate token')} is labelled as a duplicate-token head, and {named('previous token')} as a previous-token head. "
        "Backup heads become visible only under ablation (`circuits.self_repair`); a description does not look for them.\n"
    )


NOTES = {"ioi": beside_gpt2}
"""Paragraphs of one task."""


def numbers(test: dict[str, Any]) -> str:
    control = "" if test["control"] is None else f", control {test['control']:+.2g}"
    return f"effect {test['effect']:+.2g} ± {test['stderr']:.1g}{control}"


if __name__ == "__main__":
    main()
