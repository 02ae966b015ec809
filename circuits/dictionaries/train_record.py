"""What `training.json` says of a finished training, as tables. It needs no torch."""

from collections.abc import Mapping
from typing import Any

COLUMNS = {
    "explained variance": "explained_variance", "active features per token": "l0", "dead features": "dead",
    "features never active": "never_active", "loss (nats per token)": "loss", "loss with the dictionary": "loss_dictionary",
    "loss with zero": "loss_zero", "loss with the mean": "loss_mean", "loss recovered, against zero": "loss_recovered_zero",
    "loss recovered, against the mean": "loss_recovered_mean", "held-out tokens": "tokens",
}  # fmt: skip
"""Columns of the table, and the names of their numbers in the file."""


def quality_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The quality of each dictionary, one a row."""
    return [
        {"site": one["site"], **{column: one["quality"][name] for column, name in COLUMNS.items()}}
        for one in record["dictionaries"]
    ]
