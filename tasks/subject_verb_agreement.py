"""Subject-verb agreement: the verb goes with its subject, not with the noun before it.

"The teachers near the doctor" -> " are". The corrupted prompt has the subject in the other number. From Linzen et al.
2016, "Assessing the Ability of LSTMs to Learn Syntax-Sensitive Dependencies" (arXiv:1611.01368), who call the noun in
between the attractor; half of the attractors here are of the subject's number, half of the other.
"""

from dataclasses import dataclass

from tasks import words
from tasks.base import Draw, Example, Task

PREPOSITIONS = ("near", "behind", "beside", "with", "next to", "in front of")
VERBS = (" is", " are")


@dataclass(frozen=True)
class SubjectVerbAgreement(Task):
    """Pairs with the roles subject, attractor and end; singular and plural alternate, for both nouns.

    The attractor is the last token, so no span is called `end`.
    """

    name = "subject-verb-agreement"
    title = "Subject-verb agreement"
    description = "Complete with the verb that agrees with the subject: The teachers near the doctor are"
    source = "Linzen et al. 2016, arXiv:1611.01368"
    word_lists = {"nouns": words.SUBJECTS}

    def example(self, draw: Draw) -> Example:
        number, attractor_number = draw.index % 2, draw.index // 2 % 2
        nouns, attractors = draw.rows("nouns", 2)
        attractor = attractors[attractor_number]
        between = f"{draw.random.choice(PREPOSITIONS)} the {attractor}"
        return Example(
            clean=f"The {nouns[number]} {between}",
            corrupted=f"The {nouns[1 - number]} {between}",
            answers=(VERBS[number],),
            distractors=(VERBS[1 - number],),
            roles={"subject": nouns[number], "attractor": attractor},
            spans={"subject": nouns[number], "attractor": attractor},
        )
