"""Our own prompt files: JSON lines, one pair a line.

Keys of a line: `clean` and `corrupted` (text, or a list of token ids) and `answers` (a string of exactly one token, an id, or
a list of either) are needed; `distractors` (like answers), `position` (default: the last token) and `roles` (a mapping from
name to token index) are optional. `clean_text` and `corrupted_text` accompany prompts given as ids. `source`, `seed` and
`metric` say where the pairs come from; they are on every line, so that lines can be cut and joined with any tool. `metadata`
holds what else is known of a pair. Reading is in `circuits.prompts.make`.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from circuits.errors import InputError, PairsError
from circuits.files.atomic import replacing
from circuits.prompts.columns import COMMON
from circuits.prompts.pair import Pair


def write(pairs: Iterable[Pair], shared: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write pairs, and what they share, so that `PromptPairs.from_jsonl` gives equal ones. The file appears whole or not at all.

    Raises:
        PairsError: it cannot be written there.
    """
    try:
        with replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            for pair in pairs:
                file.write(json.dumps(_to_record(pair, shared), ensure_ascii=False) + "\n")
    except InputError as error:
        raise PairsError(str(error).replace("cannot write", "pairs cannot be written to", 1)) from None
    except ValueError as error:  # a NUL in the path
        raise PairsError(f"pairs cannot be written to {str(path)!r}: {error}") from error


def _to_record(pair: Pair, shared: Mapping[str, Any]) -> dict[str, Any]:
    record = {
        "clean": pair.clean,
        "corrupted": pair.corrupted,
        "answers": pair.answers,
        "distractors": pair.distractors,
        "position": pair.position,
        "roles": dict(pair.roles),
        "clean_text": pair.clean_text,
        "corrupted_text": pair.corrupted_text,
        "metadata": dict(pair.metadata) or None,
        **{key: shared[key] for key in COMMON},
    }
    return {key: value for key, value in record.items() if value is not None}
