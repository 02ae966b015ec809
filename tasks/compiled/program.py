"""A program: a task that is written as a network, and the model that this network compiles to."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from transformer_lens import TransformerBridge

from tasks.compiled.compiler import Network, compile_network
from tasks.tokens import Ids as Ids
from tasks.tokens import TokenTask

BOS = 0


@dataclass(frozen=True)
class Program(TokenTask):
    """A task of token ids, for the model that it compiles to."""

    source: ClassVar[str] = "compiled by hand"

    @classmethod
    @abstractmethod
    def network(cls) -> Network:
        """The program, as the compiler takes it."""

    @classmethod
    def bridge(cls) -> TransformerBridge:
        """The compiled model, in float64."""
        return compile_network(cls.network())
