"""Checks from the texts of a file whether its token ids were made with this model's tokenizer.

The ids alone are no evidence: every tokenizer has tokens with these numbers. Published files also contain texts. An answer's id
should decode to a word of its prompts (as in indirect object identification) or to the beginning of another cell of its line
(the name of a country). A prompt's ids should decode to the text beside them. Ids of another tokenizer match only by chance.
"""

import re
from collections.abc import Iterable

from circuits.errors import PairsError
from circuits.prompts.columns import Record, texts_of
from circuits.prompts.pair import Encoder, Pair

SHARE = 0.5
"""Smallest share of the distinct answer ids that must occur in the texts."""
SHORTEST = 2
"""Shortest word that counts as evidence, in letters."""


class Evidence:
    """Collects evidence that the ids of a file belong to a model's tokenizer.

    Args:
        model: the model whose tokenizer is checked.
        name: name of the file.
    """

    def __init__(self, model: Encoder, name: str) -> None:
        self.model, self.name = model, name
        self._known: dict[int, bool] = {}
        self._example: tuple[str, int] | None = None
        self._prompt: str | None = None
        self._prompts_agree = False

    def add(self, pair: Pair, made: Record, given: Record, place: str) -> None:
        """Adds a line.

        Args:
            pair: the pair made from the line.
            made: the record with renamed fields.
            given: the record as it is in the file.
            place: the line, for messages.
        """
        if isinstance(made["clean"], str):
            ids = [token for key in ("answers", "distractors") for token in _ids(made.get(key))]
            if new := [token for token in ids if not self._known.get(token)]:
                texts = [*texts_of(given)]
                for token in new:
                    self._known[token] = known = self._is_there(token, made, texts)
                    if not known and self._example is None:
                        self._example = place, token
        elif pair.clean_text is not None and not self._prompts_agree:
            self._prompts_agree = self._reads(pair.clean_text, list(pair.clean))
            self._prompt = self._prompt or place

    def check(self) -> None:
        """Refuses ids without evidence.

        Raises:
            PairsError: the ids may belong to another tokenizer.
        """
        known = sum(self._known.values())
        if self._example is not None and known < SHARE * len(self._known):
            place, token = self._example
            raise PairsError(
                f"{self.name}: its answers are token ids, and nothing shows that the tokenizer of {self.model.name} made them: at "
                f"{place}, {token} would be {self.model.tokenizer.decode([token])!r}, which is not in the texts there (of {len(self._known)} "
                f"different ids, {known} are); name columns of text with columns={{'answers': …}} (--columns answers=…), or, if you "
                "know that the ids are right, add trust_ids=True (--trust-ids)"
            )
        if self._prompt is not None and not self._prompts_agree:
            raise PairsError(
                f"{self.name}: its prompts are token ids, and in no line does the tokenizer of {self.model.name} read them as the text "
                f"beside them (the first is {self._prompt}); use the model whose tokenizer made them, or, if you know that the "
                "ids are right, add trust_ids=True (--trust-ids)"
            )

    def _is_there(self, token: int, made: Record, texts: Iterable[str]) -> bool:
        """Whether a token is a word of the prompts, or the beginning of another text of the line."""
        word = self.model.tokenizer.decode([token]).strip()
        if len(word) < SHORTEST:
            return False
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
        prompts = [made[key] for key in ("clean", "corrupted") if isinstance(made.get(key), str)]
        return any(pattern.search(prompt) for prompt in prompts) or any(
            text.strip().startswith(word) for text in texts if text not in prompts
        )

    def _reads(self, text: str, ids: list[int]) -> bool:
        """Whether the text encodes to these ids, or the ids decode to this text."""
        read = self.model.encode(text)
        if ids in (read, read[1:]) or read == ids[1:]:
            return True
        return text.strip() in self.model.tokenizer.decode(ids)


def _ids(entries: object) -> list[int]:
    """The first id of each answer that is given by ids."""
    firsts = (
        [entry[0] if isinstance(entry, list) and entry else entry for entry in entries]
        if isinstance(entries, list)
        else []
    )
    return [first for first in firsts if type(first) is int]
