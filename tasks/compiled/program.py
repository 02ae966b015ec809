"""A program: a task given as a network, and the model that is compiled from it."""

from abc import abstractmethod
from dataclasses import dataclass

from transformer_lens import TransformerBridge

from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.results.circuit import Circuit
from tasks.compiled.compiler import Network, compile_network
from tasks.compiled.truth import active_edges, jointly_active_edges
from tasks.tokens import Ids as Ids
from tasks.tokens import TokenTask

BOS = 0


@dataclass(frozen=True)
class Program(TokenTask):
    """A task of token ids for the model that is compiled from its network."""

    source = "compiled by hand"

    @classmethod
    @abstractmethod
    def network(cls) -> Network:
        """The input of the compiler."""

    @classmethod
    def bridge(cls) -> TransformerBridge:
        """The compiled model, in float64."""
        return compile_network(cls.network())

    def known_circuits(
        self, model: Model, pairs: PromptPairs, *, ablation: AblationLike, metric: str | None
    ) -> dict[str, Circuit]:
        """The active and the jointly active edges (see `tasks.compiled.truth`); none for another model."""
        if model.name != self.model:
            return {}
        edges = {
            "active": active_edges(model, pairs, ablation, metric=metric),
            "jointly active": jointly_active_edges(model, pairs, ablation, metric=metric),
        }
        return {name: Circuit.from_edges(model.graph, names) for name, names in edges.items()}
