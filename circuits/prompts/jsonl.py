"""The project's own prompt files: JSON lines, with one pair per line.

Required keys: `clean` (text, or a list of token ids) and `answers` (a string, an id, or a list of strings, ids and lists of ids; a
list of ids in it is an answer of several tokens). Optional keys: `corrupted` (like clean; in all lines or none), `distractors` (like
answers), `position` (default: the last token), `roles` (a mapping from name to token index, or to a half-open range of tokens:
`[3, 5]` are the tokens 3 and 4), `spans` (likewise: a partition of the prompt, if it does not follow from the roles), `alignment`
(the corrupted token of each clean token, if the prompts have unequal length), `clean_text` and `corrupted_text` for prompts given as
ids, and `metadata` (an object; other keys are added to it).
`source`, `seed` and `metric` record the origin of the pairs. They are on every line, so any tool can cut and join files.
`circuits.prompts.make` reads these files.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from circuits.errors import InputError, PairsError
from circuits.files.atomic import write_text
from circuits.prompts.columns import COMMON
from circuits.prompts.pair import Pair


def write(pairs: Iterable[Pair], shared: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes pairs and their shared entries atomically; `PromptPairs.from_jsonl` reads equal pairs. PairsError if that fails."""
    try:
        write_text(Path(path), (json.dumps(_to_record(pair, shared), ensure_ascii=False) + "\n" for pair in pairs))
    except InputError as error:
        raise PairsError(str(error).replace("cannot write", "pairs cannot be written to", 1)) from None
    except ValueError as error:  # a NUL in the path
        raise PairsError(f"pairs cannot be written to {str(path)!r}: {error}") from error


def _to_record(pair: Pair, shared: Mapping[str, Any]) -> dict[str, Any]:
    record = {field.name: getattr(pair, field.name) for field in fields(pair) if field.name != "partition"}
    record |= {
        "roles": dict(pair.roles),
        "spans": dict(pair.partition) or None,
        "alignment": pair.alignment or None,
        "corrupted": pair.corrupted or None,
        "metadata": dict(pair.metadata) or None,
        **{key: shared[key] for key in COMMON},
    }
    return {key: value for key, value in record.items() if value is not None}
