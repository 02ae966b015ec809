"""Circuits over places for formats that have no places."""

import warnings

from circuits.errors import ContentWarning
from circuits.results.circuit import Circuit


def collapsed(circuit: Circuit, what: str) -> Circuit:
    """The circuit without its places, for a file that has none; a `ContentWarning` says so.

    Args:
        circuit: any circuit; one without places is returned as it is.
        what: the file, for the warning.
    """
    if circuit.places is None:
        return circuit
    plain = circuit.without_places()
    warnings.warn(
        f"{what} cannot hold places: the {len(circuit)} edges at places were written as {len(plain)} edges, each with the sum of "
        "its effects at the places where it is kept",
        ContentWarning,
        stacklevel=4,
    )
    return plain
