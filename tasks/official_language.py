"""Official language: the official language of Brazil is Portuguese.

"The official language of Brazil is" -> " Portuguese". The corrupted prompt has a country with another language. One of
the relations of Hernandez et al. 2023, "Linearity of Relation Decoding in Transformer Language Models"
(arXiv:2308.09124).
"""

from dataclasses import dataclass

from tasks import words
from tasks.relation import Relation


@dataclass(frozen=True)
class OfficialLanguage(Relation):
    """Pairs with the roles x (the country) and end."""

    name = "official-language"
    title = "Official language"
    description = "Complete with a country's language: The official language of Brazil is Portuguese"
    source = "Hernandez et al. 2023, arXiv:2308.09124"
    word_lists = {"rows": words.LANGUAGES}
    template = "The official language of {x} is"
