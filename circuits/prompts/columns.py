"""Maps the columns of a file to the fields of a pair, by the column names of published datasets or as the caller chooses.

The fields are `clean` and `answers` (required), `corrupted`, `distractors`, `position`, `roles`, `roles.NAME`, `spans`, `spans.NAME`,
`clean_text` and `corrupted_text`. The value of a field is

- a column: `answers=capital`, or
- a text in quotes: `distractors=' he'`. `{column}` in it stands for the cell of that column, without surrounding white space:
  `answers=' {capital}'` puts a space before each capital.

Columns whose names end in `idx`, `id` or `ids` hold token ids. Other columns are kept as metadata.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from circuits.errors import PairsError
from circuits.prompts.pair import plain, show
from circuits.prompts.unfit import UnfitError

NEEDED = ("clean", "answers")
FIELDS = (
    "clean",
    "corrupted",
    "answers",
    "distractors",
    "position",
    "roles",
    "spans",
    "corrupted_spans",
    "alignment",
    "clean_text",
    "corrupted_text",
)
COMMON = ("source", "seed", "metric")
LABELS = ("word_idxs", "seq_labels")
"""auto-circuit's columns with labels of words and of template parts; `circuits.prompts.make` interprets them."""
KEYS = (*FIELDS, *COMMON, "metadata")
MOST_LISTED = 20_000
"""Longest cell that is parsed as a list, in characters."""

Record = dict[str, Any]
_SPEC = re.compile(r"\s*([\w.+-]+)\s*=\s*(=?'[^']*'|=?\"[^\"]*\"|[^,'\"]*?)\s*(?:,|$)")
_NAMED = re.compile(r"(roles|spans|corrupted_spans)\..+")
_IDS = re.compile(r"(^|_)(idx|idxs|id|ids)$")
_LIST = re.compile(r"""\[\s*(?:('(?:[^'\\]|\\['"\\nrt])*'|"(?:[^"\\]|\\['"\\nrt])*"|-?\d+)\s*(?:,\s*|(?=\])))*\]""")
_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Form:
    """The columns of a published dataset.

    Attributes:
        name: the name of the dataset or project.
        columns: field -> column or quoted text, as for `--columns`. A file has this form if it has all the columns.
        words: fields that must not be numbers, because numbers would be classes, years or ids.
    """

    name: str
    columns: Mapping[str, str]
    words: tuple[str, ...] = ()

    @property
    def marks(self) -> set[str]:
        """The columns that identify this form."""
        return {name for spec in self.columns.values() for name in _names(spec)}


def _clean_and(answers: str, distractors: str | None = None, clean: str = "clean", corrupted: str = "corrupted") -> dict[str, str]:  # fmt: skip
    columns = {"clean": clean, "corrupted": corrupted, "answers": answers}
    return columns if distractors is None else {**columns, "distractors": distractors}


NATIVE = Form("mech-circuits", {field: field for field in FIELDS[:3]})
FORMS = (
    Form("EAP-IG (hypernymy)", _clean_and("answers_idx", "corrupted_answers_idx")),
    NATIVE,
    Form("EAP-IG", _clean_and("correct_idx", "incorrect_idx")),
    Form("EAP-IG", _clean_and("correct_idx")),
    Form("EAP-IG (fact retrieval)", _clean_and("country_idx", "corrupted_country_idx")),
    Form("EAP-IG (gender bias)", _clean_and("clean_answer_idx", "corrupted_answer_idx")),
    Form("EAP-IG (labels)", _clean_and("label"), words=("answers",)),
    Form("feature-circuits", _clean_and("clean_answer", "patch_answer", "clean_prefix", "patch_prefix")),
    Form("auto-circuit", _clean_and("answers", "wrong_answers", "clean", "corrupt")),
    Form("ROME", {"clean": "prompt", "answers": "' {attribute}'", "roles.subject": "subject"}),
)
"""The forms, in the order in which they are tried."""


def parse_columns(text: str | None) -> dict[str, str] | None:
    """Parses `--columns` into a mapping from field to column or quoted text.

    >>> parse_columns("clean=prompt, answers=' {name}, I'")
    {'clean': 'prompt', 'answers': "' {name}, I'"}

    Raises:
        PairsError: the text cannot be parsed.
    """
    if text is None:
        return None
    result, at = {}, 0
    while at < len(text):
        match = _SPEC.match(text, at)
        if match is None or not match[2]:
            raise PairsError(
                f"--columns is {show(text)}; expected such as clean=COLUMN,answers=COLUMN,distractors=' text' "
                f"(understood up to character {at})"
            )
        if match[1] in result:
            raise PairsError(f"--columns names {match[1]} twice")
        result[match[1]], at = match[2], match.end()
    check_columns(result)
    return result


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuses unknown fields.

    Raises:
        PairsError: a field is unknown; the message suggests the nearest one.
    """
    for field, spec in columns.items():
        if not isinstance(field, str) or not isinstance(spec, str) or not spec:
            raise PairsError(f"columns has {show(field)}: {show(spec)}; expected the name of a field and of a column")
        if field not in FIELDS and not _NAMED.fullmatch(field):
            near = get_close_matches(field, FIELDS, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"fields are {', '.join(FIELDS)}, roles.NAME and spans.NAME"
            )
            raise PairsError(f"columns names the field {show(field)}, which pairs do not have; {hint}")


class Columns:
    """Renames the columns of records to the fields of a pair.

    Args:
        chosen: field -> column or quoted text; None: recognise the form of the file.
        text: whether every cell is text, as in CSV, so that numbers and lists have to be parsed.
        blanks: whether None stands for an empty cell.
    """

    def __init__(self, chosen: Mapping[str, str] | None, text: bool, blanks: bool) -> None:
        if chosen is not None:
            check_columns(chosen)
        self.chosen, self.text, self.blanks = chosen, text, blanks
        self.form: Form | None = None
        self._keys: tuple[str, ...] | None = None
        self._plan: dict[str, str] = {}
        self._used: set[str] = set()

    def record(self, record: Record, where: str) -> Record:
        """The record with renamed fields; its other columns become `metadata`.

        Raises:
            PairsError: a field is missing or has the wrong type.
        """
        keys = tuple(record)
        if keys != self._keys:
            self._plan, self._keys = self._planned(record, where), keys
        made: Record = {}
        for field, spec in self._plan.items():
            value = self._value(field, spec, record, where)
            if value is None and self.blanks:
                continue
            kind, _, name = field.partition(".")
            if name:
                made.setdefault(kind, {})[name] = value
            else:
                made[field] = value
        if self.chosen is None:
            made |= {key: record[key] for key in LABELS if key in record}
        rest = {name: value for name, value in record.items() if name not in self._used and value is not None}
        if isinstance(record.get("metadata"), dict) and "metadata" in self._used:
            rest = {**record["metadata"], **rest}
        return {**made, "metadata": rest} if rest else made

    def _planned(self, record: Record, where: str) -> dict[str, str]:
        """The column or quoted text of each field."""
        names = set(record)
        self.form = next((form for form in FORMS if form.marks <= names), None)
        base = {field: field for field in FIELDS if field in names}
        native = self.chosen is None and self.form in (None, NATIVE)
        if self.form is not None and (self.chosen is None or "answers" not in self.chosen):
            base |= self.form.columns
        elif self.form is not None:
            base |= {field: spec for field, spec in self.form.columns.items() if field in ("clean", "corrupted")}
        plan = {**base, **(self.chosen or {})}
        for field, spec in (self.chosen or {}).items():
            _check_known(field, spec, names, where)
        if native:
            _check_near(names, where)
            plan |= {key: key for key in COMMON if key in names}
        if missing := [field for field in NEEDED if field not in plan]:
            shown = ", ".join(name[:40] for name in list(record)[:30]) or "(none)"
            near = get_close_matches(missing[0], list(record)[:30], n=1)
            hint = f"did you mean that by {near[0]!r}?" if near else _how_to_name(list(record))
            raise PairsError(f"{where}: {missing[0]!r} is missing; found only the keys {shown}; {hint}")
        self._used = {"", *(name for spec in plan.values() for name in _names(spec))}
        if self.chosen is None:
            self._used |= {"metadata", *LABELS} if native else set(LABELS)
        return plan

    def _value(self, field: str, spec: str, record: Record, where: str) -> Any:
        """The value of a field in this record."""
        quoted = _quoted(spec)
        if quoted is not None:
            filled = self._filled(quoted, record, where)
            return [filled] if isinstance(filled, str) and field in ("answers", "distractors") else filled
        value: Any = plain(record[spec]) if spec in record else None
        if value is None:
            if self.blanks and field in FIELDS[:3]:
                raise _empty(spec, where)
            return None
        if field in ("answers", "distractors"):
            return self._answers(field, spec, value, where)
        if field in ("position", "seed") or _NAMED.fullmatch(field):
            return _whole(as_list(value) if self.text else value) if self.blanks else value
        return value

    def _answers(self, field: str, column: str, value: Any, where: str) -> Any:
        """A cell of answers: text, an id, or a list of either."""
        value = as_list(value) if self.text else value
        if _IDS.search(column):
            entries = value if isinstance(value, list | tuple) else [value]
            return [_id(entry, column, where) for entry in entries]
        entry = value[0] if isinstance(value, list) and value else value
        if self.form is not None and field in self.form.words and (isinstance(entry, int | float) or re.fullmatch(r"\s*-?\d+(\.\d+)?", str(entry))):  # fmt: skip
            raise PairsError(
                f"{where}: {column} is {show(entry)}, a number, which may be a class, a year or an id; name the column of the answers: "
                "columns={'answers': …} (--columns answers=…)"
            )
        return list(value) if isinstance(value, tuple) else value if isinstance(value, list) else [value]

    def _filled(self, text: str, record: Record, where: str) -> str | list[str]:
        """A quoted text with its cells filled in; a list if a cell is a list."""
        cells = {}
        for name in _PLACE.findall(text):
            if name in record:
                if (value := plain(record[name])) is None:
                    raise _empty(name, where)
                cells[name] = as_list(value) if self.text else value
        lists = {name: value for name, value in cells.items() if isinstance(value, list | tuple)}
        if not lists:
            return _with(text, cells)
        name, values = next(iter(lists.items()))
        if len(lists) > 1:
            raise PairsError(f"{where}: {show(text)} takes two columns of lists ({', '.join(lists)}); it can take one")
        return [_with(text, {**cells, name: value}) for value in values]


def as_list(cell: Any) -> Any:
    """Parses a cell that holds a flat list of texts or integers in JSON or Python syntax; returns other cells unchanged.

    >>> as_list("['gem', \\"Saint John's\\"]"), as_list("[9079]"), as_list("[gem]")
    (['gem', "Saint John's"], [9079], '[gem]')
    """
    if isinstance(cell, str) and cell[:1] == "[" and len(cell) < MOST_LISTED and _LIST.fullmatch(cell):
        try:
            return ast.literal_eval(cell)
        except (ValueError, SyntaxError):  # an integer with more digits than Python parses, or a broken escape
            return cell
    return cell


def texts_of(record: Mapping[str, Any]) -> Iterable[str]:
    """All texts of a record's cells, including those inside lists."""
    for value in record.values():
        value = as_list(value)
        yield from (
            entry for entry in (value if isinstance(value, list | tuple) else (value,)) if isinstance(entry, str)
        )


def _id(value: Any, column: str, where: str) -> Any:
    """A cell of a column of token ids."""
    whole = _whole(value)
    if isinstance(whole, str):
        raise PairsError(f"{where}: {column} is {show(whole)}; expected token ids, because of its name")
    return whole


def _whole(value: Any) -> Any:
    """An integer written as text, or read as a float because its column has empty cells, as an int."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}\s*", value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _with(text: str, cells: Mapping[str, Any]) -> str:
    return _PLACE.sub(lambda match: str(cells[match[1]]).strip() if match[1] in cells else match[0], text)


def _quoted(spec: str) -> str | None:
    """The text of a quoted spec, otherwise None."""
    spec = spec.removeprefix("=")
    return spec[1:-1] if len(spec) > 1 and spec[0] == spec[-1] and spec[0] in "'\"" else None


def _names(spec: str) -> list[str]:
    """The columns that a spec uses."""
    quoted = _quoted(spec)
    return [spec] if quoted is None else _PLACE.findall(quoted)


def _how_to_name(names: list[str]) -> str:
    """How to say which column is which: with the record's own columns, in their order, as an example."""
    if len(names) < len(NEEDED) or not all(re.fullmatch(r"[\w.-]{1,40}", name) for name in names[:4]):
        return "name the columns with columns=… (--columns clean=…,corrupted=…,answers=…)"
    example = ",".join(f"{field}={name}" for field, name in zip((*NEEDED, "distractors"), names, strict=False))
    return f"say which column is which with columns=… (--columns), such as {example}"


def _empty(column: str, where: str) -> UnfitError:
    return UnfitError("with an empty cell", f"{where}: column {show(column)} is empty")


def _check_known(field: str, spec: str, names: set[str], where: str) -> None:
    if _quoted(spec) is None and spec not in names:
        near = get_close_matches(spec, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"its columns are {', '.join(sorted(names)[:30])}"
        raise PairsError(f"{where}: there is no column {show(spec)}, from which {field} should come; {hint}")


def _check_near(names: set[str], where: str) -> None:
    """Refuses a key that is probably a misspelt optional field: it would be ignored."""
    for key in sorted(names - {*KEYS, ""})[:100]:
        near = get_close_matches(
            key[:40], ("corrupted", "answers", "distractors", "position", "roles", "spans"), n=1, cutoff=0.85
        )
        if near and near[0] not in names:
            raise PairsError(f"{where}: unknown key {show(key)}; did you mean {near[0]!r}?")
