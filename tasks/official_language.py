"""Official language: the official language of Brazil is Portuguese.

"The official language of Brazil is" -> " Portuguese". The corrupted prompt has a country with another language. One of
the relations of Hernandez et al. 2023, "Linearity of Relation Decoding in Transformer Language Models"
(arXiv:2308.09124).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tasks import words
from tasks.base import Row
from tasks.relation import Relation


@dataclass(frozen=True)
class OfficialLanguage(Relation):
    """Pairs with the roles x (the country) and end."""

    name: ClassVar[str] = "official-language"
    title: ClassVar[str] = "Official language"
    description: ClassVar[str] = "Complete with a country's language: The official language of Brazil is Portuguese"
    source: ClassVar[str] = "Hernandez et al. 2023, arXiv:2308.09124"
    word_lists: ClassVar[Mapping[str, Sequence[str | Row]]] = {"rows": words.LANGUAGES}
    template: ClassVar[str] = "The official language of {x} is"
