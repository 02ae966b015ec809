"""What a file says of a pair beyond its prompts and answers: kept, and written again, but never used."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from circuits.errors import InputError, PairsError
from circuits.files.untrusted import check_plain


@dataclass(frozen=True)
class Metadata(Mapping[str, Any]):
    """A mapping that cannot change, kept as JSON so that it can be hashed and takes as much memory as its text.

    >>> Metadata.of({"case": "plural", "id": 7}, "line 1")["id"]
    7
    """

    text: str = "{}"

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> "Metadata":
        """The values; what JSON cannot hold becomes text.

        Raises:
            PairsError: numbers that are not finite, half a character, or nested too deeply; at `where`.
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
    """A value that JSON has no form for: an array as a list, a date as text."""
    return tolist() if callable(tolist := getattr(value, "tolist", None)) else str(value)
