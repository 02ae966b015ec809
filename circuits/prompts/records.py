"""Records in memory: a list of dictionaries, a data frame, a dataset, or any iterable of mappings."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from circuits.errors import PairsError
from circuits.prompts.pair import plain, show
from circuits.prompts.tables import Rows, Table, records_of


def table_of(records: Any, name: str) -> Table:
    """Records as a table.

    Args:
        records: a list of mappings, a pandas or polars DataFrame, a pyarrow Table, a `datasets.Dataset`, auto-circuit's object
            with the key `prompts`, or any iterable of mappings.
        name: their name in messages.

    Raises:
        PairsError: the records have another type; raised here, or later while rows are read.
    """
    if isinstance(records, Mapping) and isinstance(records.get("prompts"), list):
        rows = records_of({**records, "prompts": [*records["prompts"]]}, name, "record")
    else:
        rows = _numbered(_each(records), name)
    return Table(name, rows, blanks=True, expected="at least one record")


def _each(records: Any) -> Iterable[Any]:
    """The records one by one, from any supported container."""
    if hasattr(records, "iter_rows"):  # polars
        return records.iter_rows(named=True)
    if hasattr(records, "to_pylist"):  # pyarrow
        return records.to_pylist()
    if hasattr(records, "columns") and hasattr(records, "itertuples"):  # pandas
        columns = [str(column) for column in records.columns]
        return (dict(zip(columns, row, strict=True)) for row in records.itertuples(index=False, name=None))
    if isinstance(records, Iterable) and not isinstance(records, Mapping | str | bytes):
        return records
    kind = type(records).__name__
    hint = "expected a list of mappings, a DataFrame, a Dataset or another iterable of mappings (a file: PromptPairs.from_file)"
    if kind in ("DatasetDict", "IterableDatasetDict"):
        hint = "choose a split of it, such as data['train']"
    raise PairsError(f"records is {show(records)[:80]} ({kind}); {hint}")


def _numbered(records: Iterable[Any], name: str) -> Rows:
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise PairsError(
                f"{name}, record {number}: found {show(record)} ({type(record).__name__}); expected a mapping"
            )
        yield f"record {number}", dict(_cells(record))


def _cells(record: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The cells as plain Python values; None for a missing value."""
    for key, value in record.items():
        value = plain(value)
        missing = (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")
        yield str(key), None if missing else list(value) if isinstance(value, tuple) else value
