"""Antonym: the opposite of hot is cold.

"The opposite of hot is" -> " cold". The corrupted prompt has another word. One of the relations of Todd et al. 2023,
"Function Vectors in Large Language Models" (arXiv:2310.15213).
"""

from dataclasses import dataclass

from tasks import words
from tasks.relation import Relation


@dataclass(frozen=True)
class Antonym(Relation):
    """Pairs with the roles x (the word) and end."""

    name = "antonym"
    title = "Antonym"
    description = "Complete with the opposite: The opposite of hot is cold"
    source = "Todd et al. 2023, arXiv:2310.15213"
    word_lists = {"rows": words.ANTONYMS}
    template = "The opposite of {x} is"
