"""MIB's prompts as pairs: with its filters, splits and counterfactuals.

Rows have the columns of the hub's datasets `mib-bench/…` (`circuits.export.mib_names.TASKS`): `prompt`; a column for each
counterfactual with a `prompt` of its own; and what the right answers follow from. Read as MIB's loader reads them
(`HFEAPDataset`):

| task | answer | wrong answer | row is left out unless |
|---|---|---|---|
| ioi | `" " + metadata.indirect_object` | `" " + metadata.subject` | these and `metadata.random_c` have equally many tokens |
| mcqa, arc_* | the label of `answerKey` in `choices` | the counterfactual's | both labels have equally many tokens |
| arithmetic_* | `label` | the counterfactual's | both are one token, and `operator` is the task's |

Of an answer of several tokens only the first counts, there as here. The prompt begins with the tokenizer's BOS token or, if it has
none (Qwen2.5), its EOS token, as TransformerLens 2 does. Pairs of unequal length, which MIB would compare token by token from
the left, are left out (`PromptPairs.unfit` counts them).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from circuits.errors import InputError, PairsError
from circuits.export.mib_names import Task, check_split, find_task
from circuits.files.untrusted import parse_json
from circuits.model import Model
from circuits.plain_torch import plain_torch
from circuits.prompts.pair import show
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.reading import SUFFIXES
from circuits.prompts.tables import read_table

Row = Mapping[str, Any]
ENDING = "_counterfactual"


@plain_torch
def mib_pairs(
    model: Model,
    task: str,
    *,
    split: str = "train",
    n: int | None = None,
    data: str | Path | None = None,
    counterfactual: str | None = None,
) -> PromptPairs:
    """The pairs of a task of MIB.

    Args:
        model: a loaded model with a tokenizer, which decides which rows fit.
        task: `ioi`, `mcqa`, `arithmetic_addition`, `arithmetic_subtraction`, `arc_easy` or `arc_challenge`.
        split: `train`, `validation` or `test` (the public one).
        n: the first n of the rows that fit; None: all.
        data: a file of rows (Parquet, JSON, JSON lines, CSV), or a folder with files that are named after their split, as on the
            hub. In CSV, a nested cell is JSON, or has a column of its own (`metadata.subject`). None: from the hub.
        counterfactual: the column of the corrupted prompts; None: MIB's choice for the task.

    Raises:
        InputError: an unknown task or split, or data that cannot be found.
        PairsError: a row lacks something, or no row fits.
    """
    chosen = find_task(task)
    check_split(split)
    if model.tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer, which MIB's filters and prompts need")
    rows = _of_hub(chosen, split) if data is None else _of_files(Path(data), chosen, split)
    reader = _Reader(model, chosen, counterfactual or chosen.counterfactual)
    records = list(islice(reader.records(rows), n))
    if not records:
        raise PairsError(
            f"no row of {task} ({split}) fits {model.name}: of {reader.seen} rows, {reader.seen} were left out"
        )
    origin = {"source": f"mib/{task}/{split}", "trust_ids": True, "skip_unfit": True}
    return PromptPairs.from_records(records, model, **origin)


def _of_hub(task: Task, split: str) -> Iterable[Row]:
    import datasets

    asked = (task.dataset,) if task.config is None else (task.dataset, task.config)
    try:
        loaded: Any = datasets.load_dataset(*asked, split=split)
        return loaded
    except Exception as problem:  # the library raises errors of many kinds
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise InputError(
            f"the data set {task.dataset} cannot be loaded from the hub ({reason[:200]}); give its files with data=… (--data)"
        ) from problem


def _of_files(path: Path, task: Task, split: str) -> Iterator[Row]:
    """The rows of a file, or of the split's files in a folder."""
    for file in [path] if path.is_file() else _files(path, task, split):
        table = read_table(file)
        for place, row in table.rows:
            yield _nested(row, f"{table.name}, {place}") if table.text else row


def _files(folder: Path, task: Task, split: str) -> list[Path]:
    places = [folder / inner for inner in ("", "data", task.config or "", f"{task.config}/data")]
    for place in places:
        files = sorted(place.glob(f"{split}*")) if place.is_dir() else []
        if tables := [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]:
            return tables
    raise InputError(
        f"{folder} has no file of the split {split}: expected a file of rows, or a folder with {split}*.parquet (.jsonl, .json, .csv)"
    )


def _nested(row: Row, where: str) -> dict[str, Any]:
    """A row of text cells, with its nested columns."""
    made: dict[str, Any] = {}
    for name, cell in row.items():
        *path, last = name.split(".")
        inner = made
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise PairsError(f"{where}: column {show(name)} is within {show(part)}, which has a cell of its own")
        try:
            inner[last] = parse_json(cell) if isinstance(cell, str) and cell[:1] in ("{", "[") else cell
        except InputError as problem:
            raise PairsError(f"{where}: column {show(name)} {problem}") from None
    return made


class _Reader:
    """Rows as records of pairs; counts the rows that it saw."""

    def __init__(self, model: Model, task: Task, counterfactual: str) -> None:
        self.task, self.other, self.seen = task, counterfactual, 0
        self.tokenizer, self.name = model.tokenizer, model.name
        bos = self.tokenizer.bos_token_id
        first = self.tokenizer.eos_token_id if bos is None else bos
        self.start = [] if first is None else [int(first)]

    def records(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            self.seen += 1
            where = f"{self.task.name}, row {number}"
            if (record := getattr(self, f"_{self.task.form}")(row, where)) is not None:
                yield self._record(row, record, where)

    def _record(self, row: Row, answers: tuple[str, str], where: str) -> dict[str, Any]:
        texts = {"clean": _text(row, "prompt", where), "corrupted": _text(row, f"{self.other}.prompt", where)}
        ids = {name: [*self.start, *self._without(self._ids(text))] for name, text in texts.items()}
        right, wrong = (self._ids(answer)[:1] for answer in answers)
        if not right or not wrong:
            raise PairsError(f"{where}: an answer has no token ({show(answers)})")
        return ids | {f"{name}_text": text for name, text in texts.items()} | {"answers": right, "distractors": wrong}

    def _names(self, row: Row, where: str) -> tuple[str, str] | None:
        right, wrong, third = (
            f" {_text(row, f'metadata.{who}', where)}" for who in ("indirect_object", "subject", "random_c")
        )
        same = len({len(self._ids(name)) for name in (right, wrong, third)}) == 1
        return (right, wrong) if same else None

    def _choices(self, row: Row, where: str) -> tuple[str, str] | None:
        right, wrong = _label(row, "", where), _label(row, f"{self.other}.", where)
        return (right, wrong) if len(self._ids(right)) == len(self._ids(wrong)) else None

    def _sums(self, row: Row, where: str) -> tuple[str, str] | None:
        other = row.get(self.other)
        if row.get("operator") != self.task.operator or not isinstance(other, Mapping) or other.get("prompt") is None:
            return None
        right, wrong = (str(_cell(row, path, where)) for path in ("label", f"{self.other}.label"))
        return (right, wrong) if len(self._ids(right)) == len(self._ids(wrong)) == 1 else None

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _without(self, ids: list[int]) -> list[int]:
        """Without a BOS token that the text itself begins with."""
        return ids[1:] if self.start and ids[:1] == self.start else ids


def _label(row: Row, prefix: str, where: str) -> str:
    """The label of the right choice."""
    labels, key = _cell(row, f"{prefix}choices.label", where), _cell(row, f"{prefix}answerKey", where)
    index = int(key) if isinstance(key, str) and key.isdecimal() else key
    if not isinstance(labels, list) or type(index) is not int or not 0 <= index < len(labels):
        raise PairsError(f"{where}: {prefix}answerKey is {show(key)}; expected an index into {show(labels)}")
    return str(labels[index])


def _text(row: Row, path: str, where: str) -> str:
    value = _cell(row, path, where)
    if not isinstance(value, str):
        raise PairsError(f"{where}: {path} is {show(value)}; expected text")
    return value


def _cell(row: Row, path: str, where: str) -> Any:
    """A nested cell."""
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        others = [name for name in row if name.endswith(ENDING)]
        hint = f"; its counterfactuals are {', '.join(others)}" if others and path.partition(".")[0] not in row else ""
        raise PairsError(f"{where}: there is no {path} (columns: {json.dumps(list(row))[:300]}){hint}")
    return value
