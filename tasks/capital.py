"""Capital: the capital of France is Paris.

"The capital of France is" -> " Paris". The corrupted prompt has another country. A relation from Merullo et al. 2023,
"Language Models Implement Simple Word2Vec-style Vector Arithmetic" (arXiv:2305.16130).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tasks import words
from tasks.base import Row
from tasks.relation import Relation


@dataclass(frozen=True)
class Capital(Relation):
    """Pairs with the roles x (the country) and end."""

    name: ClassVar[str] = "capital"
    title: ClassVar[str] = "Capital"
    description: ClassVar[str] = "Complete with a country's capital: The capital of France is Paris"
    source: ClassVar[str] = "Merullo et al. 2023, arXiv:2305.16130"
    word_lists: ClassVar[Mapping[str, Sequence[str | Row]]] = {"rows": words.CAPITALS}
    template: ClassVar[str] = "The capital of {x} is"
