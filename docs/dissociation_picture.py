"""Draws docs/dissociation.png from a measured dissociation, and prints its tables: needs a Chrome or Chromium.

circuits study run docs/studies/tasks.toml --out tasks
circuits dissociate tasks/runs/* --n 12 --core 0.5 --random-circuits 1 --out dissociation
python docs/dissociation_picture.py dissociation/dissociation.json
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from circuits.plots.figure import Figure, subplots
from circuits.plots.page import NEGATIVE, NOT_MEASURED, POSITIVE

HERE = Path(__file__).parent
PARTS = {"whole": "double", "without the core": "double_without_core"}
SCALE = [(0.0, NEGATIVE), (0.5, "#ffffff"), (1.0, POSITIVE)]
Cells = dict[tuple[str, str, str], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "dissociation.png")
    asked = parser.parse_args()
    result = json.loads(asked.result.read_text(encoding="utf-8"))
    outcome, shared = result["dissociation"], result["sharing"]
    cells = {(row["part"], row["circuit"], row["task"]): row for row in outcome["effects"]}
    figure(outcome, cells, shared["order"]).write_image(asked.out, scale=1.3)
    print_tables(outcome, shared, cells)


def figure(result: dict[str, Any], cells: Cells, order: Sequence[str]) -> Figure:
    """Effects of whole circuits and of circuits without the core; tasks in the order of the cluster map; a dot: doubly dissociated."""
    parts = [part for part in PARTS if any(key[0] == part for key in cells)]
    titles = {
        "whole": "whole circuits",
        "without the core": f"circuits without the core of {len(result['core'])} edges",
    }
    drawn = subplots(
        cols=len(parts), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=[titles[p] for p in parts]
    )
    for column, part in enumerate(parts, 1):
        double = {frozenset(pair) for pair in result[PARTS[part]]}
        values = [[cells[part, circuit, task]["effect"] for task in order] for circuit in order]
        drawn.add_heatmap(
            z=values, x=list(order), y=list(order), coloraxis="coloraxis", xgap=1, ygap=1, row=1, col=column
        )
        for circuit in order:
            for task in order:
                effect = cells[part, circuit, task]["effect"]
                text = "–" if effect is None else f"{effect:.2f}".replace("0.", ".")
                dark = effect is not None and abs(effect) > 0.7
                drawn.add_annotation(
                    x=task, y=circuit, text=text + (" •" if frozenset((circuit, task)) in double else ""), showarrow=False,
                    row=1, col=column, font={"size": 9, "color": "white" if dark else "#1c2430"},
                )  # fmt: skip
    drawn.update_xaxes(tickangle=-45, showgrid=False, ticks="", title="task that is measured")
    drawn.update_yaxes(autorange="reversed", showgrid=False, ticks="")
    drawn.update_yaxes(title="circuit that is ablated", row=1, col=1)
    drawn.update_layout(
        width=36 * len(order) * len(parts) + 300, height=30 * len(order) + 260, plot_bgcolor=NOT_MEASURED,
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 12, "color": "#1c2430"},
        margin={"l": 190, "r": 10, "t": 40, "b": 170},
        coloraxis={
            "colorscale": SCALE, "cmin": -1, "cmax": 1,
            "colorbar": {"title": {"text": "share of the task lost", "side": "right"}, "thickness": 14, "outlinewidth": 0.5},
        },
    )  # fmt: skip
    return drawn


def print_tables(result: dict[str, Any], shared: dict[str, Any], cells: Cells) -> None:
    """Markdown: a row for each task, the pairs that are not doubly dissociated, and the heads of many circuits."""
    names, sizes = result["names"], dict(zip(result["names"], result["sizes"], strict=True))
    parts = [part for part in PARTS if any(key[0] == part for key in cells)]
    heads = [f"own circuit, {part} | others (median) | random circuits" for part in parts]
    print(f"| task | edges | {' | '.join(heads)} | dissociated from |")
    print("|---|---|" + "---|" * (3 * len(parts) + 1))
    for task in names:
        row = [task, str(sizes[task])]
        for part in parts:
            own = cells[part, task, task]
            others = median([cells[part, other, task]["effect"] for other in names if other != task])
            row += [shown(own["effect"], own["low"], own["high"]), shown(others), shown(own["chance"])]
        apart = sum(task in pair for pair in result[PARTS[parts[-1]]])
        print(f"| {' | '.join(row)} | {apart} of {len(names) - 1} |")
    every = len(names) * (len(names) - 1) // 2
    for part in parts:
        print(f"\n{part}: {len(result[PARTS[part]])} of {every} pairs doubly dissociated")
    double = {frozenset(pair) for pair in result[PARTS[parts[-1]]]}
    print("not: " + "; ".join(f"{a} and {b}" for i, a in enumerate(names) for b in names[i + 1 :] if frozenset((a, b)) not in double))  # fmt: skip
    mean: Callable[[str], float] = lambda key: sum(pair[key] for pair in shared["pairs"]) / len(shared["pairs"])  # noqa: E731
    print(f"Jaccard of edges {mean('edges'):.3f} (chance {mean('edges by chance'):.3f}), nodes {mean('nodes'):.3f} (chance {mean('nodes by chance'):.3f})")  # fmt: skip
    closest = sorted(shared["pairs"], key=lambda pair: -pair["edges"])[:5]
    print("closest: " + "; ".join(f"{p['circuit']} and {p['other']} {p['edges']:.2f}" for p in closest))
    print("heads: " + ", ".join(f"{row['head']} ({row['circuits']})" for row in shared["shared_heads"]))
    print(f"core: {len(result['core'])} edges; order: {', '.join(shared['order'])}")


def median(values: Sequence[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def shown(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" + (f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else "")


if __name__ == "__main__":
    main()
