"""What a run with dictionaries finds beside the scores of its nodes: a circuit of features, errors, heads and MLPs, and its faithfulness."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.descriptions.features import FeatureFacts, feature_facts
from circuits.errors import InputError
from circuits.evaluation.feature_comparison import groups_of, parts_of
from circuits.evaluation.feature_faithfulness import FeatureFaithfulness, feature_faithfulness_of
from circuits.methods.feature_edges import feature_edges_of
from circuits.question.question import Question
from circuits.results.feature_circuit import FeatureCircuit
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import finite
from circuits.runs.files import FEATURES_FILE
from circuits.viewer import write_feature_viewer
from circuits.viewer.prompts import ShownPrompt, shown_prompts

NODES, EDGES = 30, 60
"""Default numbers of nodes and edges of a circuit."""


@dataclass(frozen=True, eq=False)
class FeatureFindings:
    """A circuit of mixed nodes.

    Attributes:
        circuit: the strongest nodes, and the strongest edges between them.
        faithfulness: with the chosen errors, with all, and with none; None: not measured.
        facts: of its features.
        prompts: what the page shows of the pairs.
        notes: what could not be measured, and why.
    """

    circuit: FeatureCircuit
    faithfulness: FeatureFaithfulness | None
    facts: Mapping[str, FeatureFacts]
    prompts: tuple[ShownPrompt, ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        measured = None if self.faithfulness is None else self.faithfulness.to_dict()
        scores = self.circuit.edge_scores
        edges = [
            {"edge": f"{source}->{target}", "score": score}
            for (source, target), score in list(zip(self.circuit.edges, scores, strict=True))[:10]
        ]
        return {"circuit_nodes": len(self.circuit), "circuit_edges": len(self.circuit.edges), "strongest_edges": edges,
                "faithfulness": measured}  # fmt: skip

    def sentence(self) -> str:
        """The three numbers in a sentence; empty if they were not measured."""
        faith = self.faithfulness
        if faith is None or finite(faith.value) is None:
            return ""
        return (
            f"The circuit of {len(self.circuit)} nodes has a faithfulness of {faith.value:.2f} with its own errors, "
            f"{faith.with_errors:.2f} with all errors, and {faith.without_errors:.2f} without errors (parts: {faith.among})."
        )

    def write_files(self, directory: Path, title: str) -> None:
        """`features.json`, `circuit.html`."""
        self.circuit.to_json(directory / FEATURES_FILE)
        facts = {name: one.to_dict() for name, one in self.facts.items()}
        about = [one for one in (self.sentence(), *self.notes) if one]
        write_feature_viewer(
            {"features": self.circuit},
            directory / "circuit.html",
            title=title,
            about=about,
            prompts=self.prompts,
            facts=facts,
        )


def found_features(question: Question, scores: NodeScores, options: Mapping[str, Any]) -> FeatureFindings | None:
    """Chooses a circuit of the strongest nodes, and tests it; None for scores with positions.

    Args:
        question: of a model with dictionaries.
        scores: of its nodes.
        options: `circuit_nodes`, `circuit_edges`, `edge_gradient`.
    """
    if scores.positions is not None:
        return None
    model, notes = question.model, []
    parts = parts_of(model, scores)
    n_nodes = NODES if options.get("circuit_nodes") is None else int(options["circuit_nodes"])
    n_edges = EDGES if options.get("circuit_edges") is None else int(options["circuit_edges"])
    strongest = [name for name, *_ in parts.strongest(n_nodes)]
    edges = faithfulness = None
    try:
        edges = (
            feature_edges_of(question, strongest, gradient=options.get("edge_gradient") or "clean") if n_edges else None
        )
    except InputError as why:
        notes.append(f"no edges: {why}")
    circuit = FeatureCircuit.from_scores(parts, n_nodes, None if edges is None else edges.nonzero(), n_edges)
    try:
        faithfulness = feature_faithfulness_of(question, circuit.nodes, groups_of(model, scores))
    except InputError as why:
        notes.append(f"no faithfulness: {why}")
    facts = feature_facts(model, question.pairs, circuit.nodes)
    return FeatureFindings(circuit, faithfulness, facts, shown_prompts(model, question.pairs, [], room=0), tuple(notes))
