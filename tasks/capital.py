"""Capital: the capital of France is Paris.

"The capital of France is" -> " Paris". The corrupted prompt has another country. A relation from Merullo et al. 2023,
"Language Models Implement Simple Word2Vec-style Vector Arithmetic" (arXiv:2305.16130).
"""

from dataclasses import dataclass

from tasks import words
from tasks.relation import Relation


@dataclass(frozen=True)
class Capital(Relation):
    """Pairs with the roles x (the country) and end."""

    name = "capital"
    title = "Capital"
    description = "Complete with a country's capital: The capital of France is Paris"
    source = "Merullo et al. 2023, arXiv:2305.16130"
    word_lists = {"rows": words.CAPITALS}
    template = "The capital of {x} is"
