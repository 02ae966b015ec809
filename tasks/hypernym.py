"""Hypernym: an eagle is a type of bird.

"The eagle is a type of" -> " bird". The corrupted prompt has a thing of another kind. As the task of that name in Hanna
et al. 2024, "Have Faith in Faithfulness" (arXiv:2403.17806), with a template of ours.
"""

from dataclasses import dataclass

from tasks import words
from tasks.relation import Relation


@dataclass(frozen=True)
class Hypernym(Relation):
    """Pairs with the roles x (the thing) and end."""

    name = "hypernym"
    title = "Hypernym"
    description = "Complete with the kind of a thing: The eagle is a type of bird"
    source = "Hanna et al. 2024, arXiv:2403.17806"
    word_lists = {"rows": words.HYPERNYMS}
    template = "The {x} is a type of"
