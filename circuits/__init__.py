"""mech-circuits: which parts of a transformer language model produce a behaviour, and how they are wired.

Everything public is here; it is imported when it is first used, so that `import circuits` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuits.errors import AttributionWarning as AttributionWarning
    from circuits.errors import DamageWarning as DamageWarning
    from circuits.errors import InputError as InputError
    from circuits.errors import ModelError as ModelError
    from circuits.errors import PairsError as PairsError
    from circuits.errors import PairsWarning as PairsWarning
    from circuits.evaluation.circuit_predictions import CircuitPrediction as CircuitPrediction
    from circuits.evaluation.circuit_predictions import predict_circuits as predict_circuits
    from circuits.evaluation.comparison import Comparison as Comparison
    from circuits.evaluation.comparison import compare as compare
    from circuits.evaluation.completeness import Completeness as Completeness
    from circuits.evaluation.completeness import Minimality as Minimality
    from circuits.evaluation.completeness import completeness as completeness
    from circuits.evaluation.completeness import minimality as minimality
    from circuits.evaluation.counterfactual import Counterfactuals as Counterfactuals
    from circuits.evaluation.counterfactual import counterfactuals as counterfactuals
    from circuits.evaluation.curves import FaithfulnessCurves as FaithfulnessCurves
    from circuits.evaluation.curves import faithfulness_curves as faithfulness_curves
    from circuits.evaluation.faithfulness import Faithfulness as Faithfulness
    from circuits.evaluation.faithfulness import circuit_metric as circuit_metric
    from circuits.evaluation.faithfulness import circuit_metrics as circuit_metrics
    from circuits.evaluation.faithfulness import faithfulness as faithfulness
    from circuits.evaluation.hypothesis import HypothesisTests as HypothesisTests
    from circuits.evaluation.hypothesis import hypothesis_tests as hypothesis_tests
    from circuits.evaluation.randomisation import Randomisation as Randomisation
    from circuits.evaluation.randomisation import randomisation as randomisation
    from circuits.evaluation.recovery import Recovery as Recovery
    from circuits.evaluation.recovery import recovery as recovery
    from circuits.evaluation.score_quality import complexity as complexity
    from circuits.evaluation.score_quality import sensitivity as sensitivity
    from circuits.evaluation.stability import Stability as Stability
    from circuits.evaluation.stability import prompt_stability as prompt_stability
    from circuits.evaluation.stability import stability as stability
    from circuits.evaluation.task import TaskCheck as TaskCheck
    from circuits.evaluation.task import check_pairs as check_pairs
    from circuits.evaluation.task import check_task as check_task
    from circuits.export.formats import export_circuit as export_circuit
    from circuits.graph.graph import Graph as Graph
    from circuits.methods.acdc import acdc as acdc
    from circuits.methods.acdc import acdc_of_size as acdc_of_size
    from circuits.methods.acdc import acdc_sweep as acdc_sweep
    from circuits.methods.activation_patching import activation_patching as activation_patching
    from circuits.methods.atp_star import atp_star as atp_star
    from circuits.methods.attribution_patching import attribution_patching as attribution_patching
    from circuits.methods.causal_mediation import Mediation as Mediation
    from circuits.methods.causal_mediation import causal_mediation as causal_mediation
    from circuits.methods.causal_model import CausalModel as CausalModel
    from circuits.methods.coar import coar as coar
    from circuits.methods.coar import draw_samples as draw_samples
    from circuits.methods.coar import leave_one_out as leave_one_out
    from circuits.methods.coar_edit import Edit as Edit
    from circuits.methods.coar_edit import EditOutcome as EditOutcome
    from circuits.methods.coar_edit import apply_edit as apply_edit
    from circuits.methods.coar_edit import plan_edit as plan_edit
    from circuits.methods.component_baselines import gradient_times_parameter as gradient_times_parameter
    from circuits.methods.component_baselines import internal_influence as internal_influence
    from circuits.methods.component_baselines import neuron_conductance as neuron_conductance
    from circuits.methods.diagnosis import Diagnosis as Diagnosis
    from circuits.methods.diagnostics import diagnose as diagnose
    from circuits.methods.edge_attribution import edge_attribution as edge_attribution
    from circuits.methods.edge_memory import MemoryNeed as MemoryNeed
    from circuits.methods.edge_memory import memory_need as memory_need
    from circuits.methods.edge_pruning import edge_pruning as edge_pruning
    from circuits.methods.exact_edges import exact_edge_effects as exact_edge_effects
    from circuits.methods.game_values import SobolIndices as SobolIndices
    from circuits.methods.game_values import banzhaf as banzhaf
    from circuits.methods.game_values import shapley as shapley
    from circuits.methods.game_values import sobol as sobol
    from circuits.methods.information_flow import information_flow as information_flow
    from circuits.methods.interchange_intervention import InterchangeAccuracy as InterchangeAccuracy
    from circuits.methods.interchange_intervention import interchange_interventions as interchange_interventions
    from circuits.methods.path_patching import path_patching as path_patching
    from circuits.methods.refine import refine as refine
    from circuits.methods.verification import Verification as Verification
    from circuits.methods.verification import verify as verify
    from circuits.model import Model as Model
    from circuits.model import load_model as load_model
    from circuits.prompts.pairs import PromptPairs as PromptPairs
    from circuits.question.ablations import Ablation as Ablation
    from circuits.question.metrics import Metric as Metric
    from circuits.results.circuit import Circuit as Circuit
    from circuits.results.edge_scores import EdgeScores as EdgeScores
    from circuits.results.naming import Naming as Naming
    from circuits.results.node_scores import LinearAttribution as LinearAttribution
    from circuits.results.node_scores import NodeScores as NodeScores
    from circuits.results.random_circuits import random_circuit as random_circuit
    from circuits.stats.interactions import Interaction as Interaction

_WHERE = {
    "NodeScores": "results.node_scores",
    "acdc": "methods.acdc",
    "acdc_of_size": "methods.acdc",
    "acdc_sweep": "methods.acdc",
    "activation_patching": "methods.activation_patching",
    "atp_star": "methods.atp_star",
    "attribution_patching": "methods.attribution_patching",
    "Ablation": "question.ablations",
    "AttributionWarning": "errors",
    "DamageWarning": "errors",
    "CausalModel": "methods.causal_model",
    "Circuit": "results.circuit",
    "Comparison": "evaluation.comparison",
    "Counterfactuals": "evaluation.counterfactual",
    "Diagnosis": "methods.diagnosis",
    "EdgeScores": "results.edge_scores",
    "Faithfulness": "evaluation.faithfulness",
    "Graph": "graph.graph",
    "InputError": "errors",
    "InterchangeAccuracy": "methods.interchange_intervention",
    "LinearAttribution": "results.node_scores",
    "Mediation": "methods.causal_mediation",
    "MemoryNeed": "methods.edge_memory",
    "Metric": "question.metrics",
    "Model": "model",
    "ModelError": "errors",
    "Naming": "results.naming",
    "PairsError": "errors",
    "PairsWarning": "errors",
    "PromptPairs": "prompts.pairs",
    "Recovery": "evaluation.recovery",
    "Verification": "methods.verification",
    "TaskCheck": "evaluation.task",
    "check_pairs": "evaluation.task",
    "check_task": "evaluation.task",
    "causal_mediation": "methods.causal_mediation",
    "circuit_metric": "evaluation.faithfulness",
    "circuit_metrics": "evaluation.faithfulness",
    "coar": "methods.coar",
    "compare": "evaluation.comparison",
    "counterfactuals": "evaluation.counterfactual",
    "diagnose": "methods.diagnostics",
    "draw_samples": "methods.coar",
    "edge_attribution": "methods.edge_attribution",
    "edge_pruning": "methods.edge_pruning",
    "exact_edge_effects": "methods.exact_edges",
    "export_circuit": "export.formats",
    "faithfulness": "evaluation.faithfulness",
    "information_flow": "methods.information_flow",
    "interchange_interventions": "methods.interchange_intervention",
    "leave_one_out": "methods.coar",
    "load_model": "model",
    "memory_need": "methods.edge_memory",
    "path_patching": "methods.path_patching",
    "random_circuit": "results.random_circuits",
    "recovery": "evaluation.recovery",
    "refine": "methods.refine",
    "verify": "methods.verification",
    "Randomisation": "evaluation.randomisation",
    "randomisation": "evaluation.randomisation",
    "complexity": "evaluation.score_quality",
    "sensitivity": "evaluation.score_quality",
    "Stability": "evaluation.stability",
    "prompt_stability": "evaluation.stability",
    "stability": "evaluation.stability",
    "Completeness": "evaluation.completeness",
    "Minimality": "evaluation.completeness",
    "completeness": "evaluation.completeness",
    "minimality": "evaluation.completeness",
    "FaithfulnessCurves": "evaluation.curves",
    "faithfulness_curves": "evaluation.curves",
    "HypothesisTests": "evaluation.hypothesis",
    "hypothesis_tests": "evaluation.hypothesis",
    "CircuitPrediction": "evaluation.circuit_predictions",
    "predict_circuits": "evaluation.circuit_predictions",
    "Edit": "methods.coar_edit",
    "EditOutcome": "methods.coar_edit",
    "apply_edit": "methods.coar_edit",
    "plan_edit": "methods.coar_edit",
    "Interaction": "stats.interactions",
    "gradient_times_parameter": "methods.component_baselines",
    "internal_influence": "methods.component_baselines",
    "neuron_conductance": "methods.component_baselines",
    "SobolIndices": "methods.game_values",
    "banzhaf": "methods.game_values",
    "shapley": "methods.game_values",
    "sobol": "methods.game_values",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'circuits' has no attribute {name!r}")
    value = getattr(import_module(f"circuits.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
