"""Entries of a pair's record beyond prompts and answers: stored and written again, but never used."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from circuits.errors import InputError, PairsError
from circuits.files.untrusted import check_plain


@dataclass(frozen=True)
class Metadata(Mapping[str, Any]):
    """An immutable mapping, stored as JSON: it can be hashed, and takes no more memory than its text.

    >>> Metadata.from_mapping({"case": "plural", "id": 7}, "line 1")["id"]
    7
    """

    text: str = "{}"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> "Metadata":
        """Stores the values; those that JSON cannot hold become text.

        Raises:
            PairsError: a number is not finite, text is not valid Unicode, or values are nested too deeply; names `where`.
        """
        if not values:
            return NOTHING
        try:
            check_plain(dict(values), "it")
            return cls(json.dumps(dict(values), ensure_ascii=False, allow_nan=False, default=_as_text))
        except (InputError, ValueError, TypeError, RecursionError) as problem:
            raise PairsError(f"{where}: a further column cannot be kept: {problem}") from None

    def __getitem__(self, name: str) -> Any:
        return json.loads(self.text)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self.text))

    def __len__(self) -> int:
        return 0 if self.text == "{}" else len(json.loads(self.text))

    def __repr__(self) -> str:
        return f"Metadata({self.text})"


NOTHING = Metadata()


def _as_text(value: object) -> object:
    """A value without a JSON form: arrays become lists, dates become text."""
    return tolist() if callable(tolist := getattr(value, "tolist", None)) else str(value)
