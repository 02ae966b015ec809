"""Past tense: every day they go, yesterday they went.

"Every day they go. Yesterday they" -> " went". The corrupted prompt has another verb; all are irregular. One of the
relations of Todd et al. 2023, "Function Vectors in Large Language Models" (arXiv:2310.15213), with a template of ours.
"""

from dataclasses import dataclass

from tasks import words
from tasks.relation import Relation


@dataclass(frozen=True)
class PastTense(Relation):
    """Pairs with the roles x (the verb) and end."""

    name = "past-tense"
    title = "Past tense"
    description = "Complete with the verb's past tense: Every day they go. Yesterday they went"
    source = "Todd et al. 2023, arXiv:2310.15213"
    word_lists = {"rows": words.PAST_TENSES}
    template = "Every day they {x}. Yesterday they"
