"""Hypernym: an eagle is a type of bird.

"The eagle is a type of" -> " bird". The corrupted prompt has a thing of another kind. As the task of that name in Hanna
et al. 2024, "Have Faith in Faithfulness" (arXiv:2403.17806), with a template of ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tasks import words
from tasks.base import Row
from tasks.relation import Relation


@dataclass(frozen=True)
class Hypernym(Relation):
    """Pairs with the roles x (the thing) and end."""

    name: ClassVar[str] = "hypernym"
    title: ClassVar[str] = "Hypernym"
    description: ClassVar[str] = "Complete with the kind of a thing: The eagle is a type of bird"
    source: ClassVar[str] = "Hanna et al. 2024, arXiv:2403.17806"
    word_lists: ClassVar[Mapping[str, Sequence[str | Row]]] = {"rows": words.HYPERNYMS}
    template: ClassVar[str] = "The {x} is a type of"
