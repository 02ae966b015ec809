"""Antonym: the opposite of hot is cold.

"The opposite of hot is" -> " cold". The corrupted prompt has another word. One of the relations of Todd et al. 2023,
"Function Vectors in Large Language Models" (arXiv:2310.15213).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tasks import words
from tasks.base import Row
from tasks.relation import Relation


@dataclass(frozen=True)
class Antonym(Relation):
    """Pairs with the roles x (the word) and end."""

    name: ClassVar[str] = "antonym"
    title: ClassVar[str] = "Antonym"
    description: ClassVar[str] = "Complete with the opposite: The opposite of hot is cold"
    source: ClassVar[str] = "Todd et al. 2023, arXiv:2310.15213"
    word_lists: ClassVar[Mapping[str, Sequence[str | Row]]] = {"rows": words.ANTONYMS}
    template: ClassVar[str] = "The opposite of {x} is"
