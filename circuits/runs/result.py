"""The result of a run: edges and a circuit, or nodes, with its summary and its files."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from circuits.evaluation.faithfulness import Faithfulness
from circuits.prompts.pairs import PromptPairs
from circuits.question.answers import Answers
from circuits.question.metrics import METRICS
from circuits.question.optimal_constants import Constants
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import Provenance, finite
from circuits.results.recorded import method_name
from circuits.runs.features import FeatureFindings
from circuits.runs.findings import circuit_findings, node_findings, run_title
from circuits.viewer.prompts import ShownPrompt

FEW = 2 / 3
"""A circuit with a smaller share of the requested edges gets a remark."""


@dataclass(frozen=True, eq=False)
class Discovery:
    """A scored, tested circuit.

    Attributes:
        scores: every edge's effect; None: the method does not score all edges.
        circuit: the chosen edges.
        faithfulness: the circuit against the model, against everything ablated, and against random circuits.
        accuracy: share of prompts on which the model prefers an answer to every distractor; None without distractors.
        options: options of the run.
        seconds: wall time per stage.
        steps: a `steps.jsonl` of the search, or None.
        remarks: remarks of the method on its numbers.
        answers: where the model ranks the answers; None: not measured.
        warnings: what speaks against the pairs, see `circuits.question.doubts`.
        pairs_differ: False: no pair's prompts differ in anything that the ablation uses.
        reference: the pairs whose mean was the ablation; None: the run's own, or another ablation.
        constants: those of the ablation `optimal`; None: another ablation.
        prompts: what the run's page shows of the pairs.
    """

    scores: EdgeScores | None
    circuit: Circuit
    faithfulness: Faithfulness
    accuracy: float | None
    options: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: Path | None = None
    remarks: tuple[str, ...] = ()
    answers: Answers | None = None
    warnings: tuple[str, ...] = ()
    pairs_differ: bool = True
    reference: PromptPairs | None = None
    constants: Constants | None = None
    prompts: tuple[ShownPrompt, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the reader of the numbers."""
        faith = self.faithfulness
        about = (faith.undefined, faith.metric_range.near_zero, faith.too_few_random)
        remarks = (*self.remarks, *(f"faithfulness: {why}" for why in about if why is not None))
        if len(self.circuit):
            return remarks if self._much_pruned is None else (*remarks, self._much_pruned)
        if not self.pairs_differ:
            why = "no prompt differs from its corrupted one, so no edge has an effect"
            return (*remarks, f"the circuit is empty: {why}")
        if self.faithfulness.undefined is not None:
            return remarks
        size = None if self.scores is None else float(self.scores.values.abs().max())
        largest = "" if size is None else f"; the largest score is {size:.4g}"
        return (*remarks, f"the circuit is empty: ask for more edges, or take a smaller threshold{largest}")

    @property
    def _much_pruned(self) -> str | None:
        """A remark if most of the requested edges were dead ends."""
        asked, kept = self.options.get("edges"), len(self.circuit)
        if self.scores is None or asked is None or self.options.get("fill") or kept > FEW * asked:
            return None
        return (
            f"only {kept} of the {asked} strongest {self.circuit.unit} are on a path from the input to the logits; the others were "
            "pruned (--fill, in Python fill=True, adds the next strongest until the circuit has as many as requested)"
        )

    @property
    def provenance(self) -> Provenance:
        return self.circuit.provenance

    @property
    def ranked(self) -> EdgeScores | None:
        """The scores from which the circuit was chosen: of edges at places, if it has places."""
        if self.scores is None or self.circuit.places is None:
            return self.scores
        return self.scores.over_places()

    def strongest(self, n: int = 10) -> list[tuple[str, float, float]]:
        """(edge, effect, standard error) of the largest effects by absolute value, among all edges with a score."""
        if self.ranked is not None:
            return self.ranked.strongest(n)
        known = [(edge, score) for edge in self.circuit.edges if (score := self.circuit.score(edge)) is not None]
        return [(edge, score, math.nan) for edge, score in sorted(known, key=lambda entry: -abs(entry[1]))[:n]]

    def summary(self) -> dict[str, Any]:
        """The numbers of the summary table, as plain JSON values."""
        faith = self.faithfulness
        return {
            "accuracy": self.accuracy,
            **ranked(self.answers),
            "metric": faith.metric,
            "ablation": faith.ablation,
            "clean": float(faith.clean.mean()),
            "ablated": float(faith.ablated.mean()),
            "circuit": float(faith.circuit.mean()),
            "faithfulness": finite(faith.value),
            "random_circuits": [float(value) for value in faith.random],
            "random_faithfulness": finite(faith.random_value),
            "faithfulness_undefined": faith.undefined,
            "edges": len(self.circuit),
            "unit": self.circuit.unit,
            "nodes": len(self.circuit.nodes),
            "edges_in_graph": self.circuit.graph.n_edges,
            "strongest": [
                {"edge": edge, "score": score, "stderr": finite(stderr), "in_circuit": edge in self.circuit}
                for edge, score, stderr in self.strongest(10)
            ],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def write_files(self, directory: Path) -> None:
        """`scores.safetensors`, `steps.jsonl`, `circuit.json`, `circuit.graphml`, `circuit.html`."""
        from circuits.viewer import write_viewer

        if self.scores is not None:
            self.scores.save(directory / "scores.safetensors")
        if self.steps is not None:
            shutil.copyfile(self.steps, directory / "steps.jsonl")
        self.circuit.to_json(directory / "circuit.json")
        self.circuit.to_graphml(directory / "circuit.graphml")
        about = run_title(self.provenance), circuit_findings(self.summary(), self.provenance)
        name, page = method_name(self.provenance), directory / "circuit.html"
        write_viewer({name: self.circuit}, page, title=about[0], about=about[1], prompts=self.prompts)


@dataclass(frozen=True, eq=False)
class NodeDiscovery:
    """Scored nodes.

    Attributes:
        scores: every node's effect, with the metric of the clean and the corrupted run.
        options: options of the run.
        seconds: wall time per stage.
        tokens: labels of the positions; None: those of the scores.
        notes: remarks for the reader of the numbers.
        answers: where the model ranks the answers; None: not measured.
        warnings: what speaks against the pairs, see `circuits.question.doubts`.
        pairs_differ: False: no pair's prompts differ in anything that the ablation uses.
        reference: the pairs whose mean was the ablation; None: the run's own, or another ablation.
        constants: those of the ablation `optimal`; None: another ablation.
        features: the circuit of a run with dictionaries; None: another run.
    """

    scores: NodeScores
    options: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    answers: Answers | None = None
    warnings: tuple[str, ...] = ()
    pairs_differ: bool = True
    reference: PromptPairs | None = None
    constants: Constants | None = None
    features: FeatureFindings | None = None

    @property
    def provenance(self) -> Provenance:
        return self.scores.provenance

    def summary(self) -> dict[str, Any]:
        """The numbers of the summary table, as plain JSON values."""
        scores = self.scores
        metric = METRICS.get(str(self.provenance.get("metric")))
        # Scores have the sign of the behaviour; the summary has the metric's own values.
        sign = 1 if metric is None else metric.sign
        ends = [None if run is None else finite(sign * float(run.mean())) for run in (scores.clean, scores.corrupted)]
        return {
            **({} if self.answers is None else {"accuracy": self.answers.accuracy}),
            **ranked(self.answers),
            "metric": self.provenance.get("metric"),
            "ablation": self.provenance.get("ablation"),
            "clean": ends[0],
            "corrupted": ends[1],
            "nodes": len(scores),
            "positions": None if scores.positions is None else len(scores.positions),
            "strongest": strongest(scores, 10, int(self.options.get("seed", 0))),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            **scores.details(),
            **({} if self.features is None else {"features": self.features.summary()}),
        }

    def write_files(self, directory: Path) -> None:
        """`scores.safetensors`, `heatmap.html`; with dictionaries also `features.json` and `circuit.html`."""
        from circuits.plots import Section, node_heatmap, position_heatmap, write_page

        self.scores.save(directory / "scores.safetensors")
        with_positions = self.scores.positions is not None
        figure = position_heatmap(self.scores, self.tokens) if with_positions else node_heatmap(self.scores)
        findings = Section("What was found", " ".join(node_findings(self.summary(), self.provenance)), figure)
        write_page(run_title(self.provenance), [findings], directory / "heatmap.html")
        if self.features is not None:
            self.features.write_files(directory, run_title(self.provenance))


def ranked(answers: Answers | None) -> dict[str, float | None]:
    """Where the model ranks the answers, as plain JSON values."""
    if answers is None:
        return {"top_1_rate": None, "median_rank": None}
    return {"top_1_rate": finite(answers.top_1_rate), "median_rank": finite(answers.median_rank)}


def strongest(scores: NodeScores, n: int = 10, seed: int = 0) -> list[dict[str, Any]]:
    """The n largest effects by absolute value, each with its 95% bootstrap interval (None with a single prompt)."""
    shown = scores.nodes
    if scores.positions is not None:
        shown = tuple(f"{node}@{position}" for node in scores.nodes for position in scores.positions)
    order = torch.sort(scores.values.flatten().abs(), descending=True, stable=True).indices[:n]
    flat = scores.per_prompt.reshape(-1, scores.n_prompts)[order]
    # Only these few are bootstrapped: with neurons and positions there may be a million.
    chosen = replace(scores, nodes=tuple(shown[i] for i in order.tolist()), per_prompt=flat, positions=None)
    low, high = chosen.interval(seed=seed)
    known = scores.n_prompts > 1
    rows = zip(chosen.nodes, chosen.values.tolist(), chosen.stderr.tolist(), low.tolist(), high.tolist(), strict=True)
    return [
        {"node": node, "effect": finite(effect), "stderr": finite(stderr), "interval": [finite(a), finite(b)] if known else None}
        for node, effect, stderr, a, b in rows
    ]  # fmt: skip
