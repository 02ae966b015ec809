"""Gendered pronoun: a name calls for he or she.

"So Mary is a really great friend, isn't" -> " she". The corrupted prompt has a name of the other gender. From Mathwin et
al. 2023, "Identifying a Preliminary Circuit for Predicting Gendered Pronouns in GPT-2 Small" (a report without arXiv id).
The names are those that English speakers mostly give to one gender; the task tests which gender the model assumes.
"""

from dataclasses import dataclass

from tasks import words
from tasks.base import Draw, Example, Task

TEMPLATE = "So {} is a really great friend, isn't"
PRONOUNS = (" he", " she")


@dataclass(frozen=True)
class GenderedPronoun(Task):
    """Pairs with the roles name and end; he and she alternate."""

    name = "gendered-pronoun"
    title = "Gendered pronoun"
    description = "Complete with the name's pronoun: So Mary is a really great friend, isn't she"
    source = "Mathwin et al. 2023"
    word_lists = {"he": words.MALE_NAMES, "she": words.FEMALE_NAMES}

    def example(self, draw: Draw) -> Example:
        names, gender = (draw.word("he"), draw.word("she")), draw.index % 2
        return Example(
            clean=TEMPLATE.format(names[gender]),
            corrupted=TEMPLATE.format(names[1 - gender]),
            answers=(PRONOUNS[gender],),
            distractors=(PRONOUNS[1 - gender],),
            roles={"name": names[gender]},
        )
