"""Converts a file of prompts to the project's JSON lines without a model: columns are renamed, values stay the same."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from circuits.errors import InputError, PairsError
from circuits.files.atomic import write_text
from circuits.files.untrusted import check_plain
from circuits.prompts.columns import Columns, Record
from circuits.prompts.metadata import Metadata
from circuits.prompts.reading import Reading
from circuits.prompts.tables import read_table
from circuits.prompts.unfit import Tally, Unfit, UnfitError


@dataclass(frozen=True)
class Converted:
    """The records of a file, with renamed fields.

    Attributes:
        name: name of the file.
        records: the converted records.
        form: the published form that was recognised; None: the caller chose the columns.
        unfit: counts of records that could not be converted; None: all were converted.
    """

    name: str
    records: list[Record]
    form: str | None
    unfit: Unfit | None

    def summary(self) -> str:
        """One line for the terminal."""
        whose = "columns as given" if self.form is None else f"columns of {self.form}"
        return f"{self.name}: {len(self.records)} pairs, {whose}{'' if self.unfit is None else f'; {self.unfit}'}"


def converted(path: str | os.PathLike[str], reading: Reading) -> Converted:
    """The records of a file with renamed fields. Token ids are refused: their tokenizer is unknown.

    Raises:
        PairsError: see `circuits.prompts.make.make`.
    """
    table = read_table(path)
    columns, tally, records = Columns(reading.columns, table.text, table.blanks), Tally(), []
    if not reading.bos:
        raise PairsError("no-bos changes how text becomes tokens, which needs a model (--model)")
    for place, given in table.rows:
        where = f"{table.name}, {place}"
        try:
            record = columns.record(given, where)
            if "metadata" in record:
                record["metadata"] = dict(Metadata.from_mapping(record["metadata"], where))
            check_plain(record, where)
            if not reading.trust_ids:
                _check_texts(record, where)
            records.append(record)
        except UnfitError as error:
            tally.add(place, error)
        except PairsError:
            raise
        except InputError as error:
            raise PairsError(str(error)) from None
        if reading.n is not None and len(records) >= reading.n:
            break
    unfit = tally.result(len(records))
    if unfit is not None and not (reading.skip_unfit and records):
        raise tally.refusal(table.name, len(records))
    if not records:
        raise PairsError(f"{table.name} has no pairs; expected {table.expected}")
    form = columns.form.name if columns.form is not None and reading.columns is None else None
    return Converted(table.name, records, form, unfit)


def write_converted(rows: Converted, path: Path) -> None:
    """Writes the records atomically.

    Raises:
        InputError: the file cannot be written.
    """
    lines = (json.dumps({"source": rows.name, **record}, ensure_ascii=False) + "\n" for record in rows.records)
    write_text(path, lines)


def _check_texts(record: Record, where: str) -> None:
    """Refuses answers given as ids of an unknown tokenizer after prompts given as text."""
    if not isinstance(record["clean"], str):
        return
    for key in ("answers", "distractors"):
        if any(type(entry) is int for entry in record.get(key) or ()):
            raise PairsError(
                f"{where}: {key} are token ids; name the model whose tokenizer made them (--model), name a column of text "
                f"(--columns {key}=…), or add --trust-ids to write them as they are"
            )
