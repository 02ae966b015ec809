"""Tasks of token ids, each for one small model that is built in Python and has no tokenizer."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from transformer_lens import TransformerBridge

from circuits.errors import InputError
from circuits.prompts.pair import NO_ROLES, Encoder, Pair, Place, Roles
from circuits.prompts.spans import partition
from tasks.base import Draw, Source, UnusableError

Ids = tuple[int, ...]


@dataclass(frozen=True)
class TokenTask(Source):
    """A task of token ids, and its model, which has the same name.

    Attributes:
        words: the name of each token id.
        n_ctx: the longest prompt, in tokens.
    """

    words: ClassVar[Sequence[str]]
    n_ctx: ClassVar[int]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.model = getattr(cls, "name", None)

    @classmethod
    @abstractmethod
    def bridge(cls) -> TransformerBridge:
        """A new model."""

    @abstractmethod
    def solve(self, prompt: Sequence[int]) -> Ids:
        """The right next tokens, computed in plain Python."""

    @abstractmethod
    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        """A clean and a corrupted prompt."""

    def wrong(self, clean: Sequence[int], corrupted: Sequence[int]) -> Ids:
        """The wrong next tokens of the clean prompt; by default, those that are right after the corrupted one."""
        right = self.solve(clean)
        return tuple(token for token in self.solve(corrupted) if token not in right)

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        """What divides a clean prompt into spans (`circuits.prompts.spans`); nothing: the last token and those before it."""
        return {}

    def pair(self, draw: Draw) -> Pair:
        """The two prompts, with the right and wrong tokens after the clean one."""
        clean, corrupted = (tuple(prompt) for prompt in self.prompts(draw))
        answers, distractors = self.solve(clean), self.wrong(clean, corrupted)
        if not distractors:
            raise UnusableError("two prompts with the same answer")
        end = len(clean) - 1
        clean_text, corrupted_text = self.text(clean, draw.model), self.text(corrupted, draw.model)
        roles, places = Roles.from_mapping({"end": end}), self.spans(clean)
        spans = partition(places, len(clean), end, f"the prompt {clean_text!r}", "span") if places else NO_ROLES
        return Pair(clean, corrupted, answers, distractors, end, roles, clean_text, corrupted_text, partition=spans)

    def check(self, model: Encoder) -> None:
        """Refuses a model with another vocabulary or context length."""
        if (model.d_vocab, model.n_ctx) != (len(self.words), self.n_ctx):
            raise InputError(
                f"task {self.name} is made of the token ids of the model {self.model} ({len(self.words)} tokens, prompts of "
                f"at most {self.n_ctx}); {model.name} has {model.d_vocab} tokens and reads at most {model.n_ctx}; "
                f"ask that model (--model {self.model})"
            )

    def text(self, ids: Sequence[int], model: Encoder) -> str:
        """The tokens' names."""
        return " ".join(self.words[token] for token in ids)
