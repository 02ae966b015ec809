"""Writes a circuit in any format."""

import warnings
from pathlib import Path
from typing import Any

from circuits.errors import ContentWarning
from circuits.export.catalogue import Format, find_format
from circuits.plain_torch import plain_torch
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming


@plain_torch
def export_circuit(
    circuit: Circuit,
    out: str | Path,
    to: str | None = None,
    *,
    naming: Naming | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Writes a circuit in any format.

    Args:
        circuit: any circuit.
        out: the file, or for `mib` the folder.
        to: the name of the format; None: by the suffix of `out`.
        naming: labels and groups of nodes.
        overwrite: replace an existing file.
        options: of the format, such as `max_edges=200`, `direction="right"`, `colours="kind"`, `dpi=300`, `d_model=768`.

    Returns:
        the file written.

    Raises:
        InputError: an unknown format, an option that it does not take, or a file that exists already.
    """
    form, out = find_format(to, out), Path(out)
    given = options | ({"naming": naming} if naming else {})
    form.check(out, given, overwrite)
    _warn_if_empty(form, circuit, out)
    if not form.suffix:
        return form.write(circuit, out, overwrite=overwrite, **given)
    form.write(circuit, out, **given)
    return out


def _warn_if_empty(form: Format, circuit: Circuit, out: Path) -> None:
    """An empty circuit is valid, but rarely what the user wanted."""
    if len(circuit) or (form.every_edge and circuit.scores is not None):
        return
    reason = ""
    if "selection" in circuit.provenance:
        reason = ": no edge that was chosen is on a path from input to logits; choose more"
    elif circuit.scores is not None:
        reason = "; there are scores: choose the strongest edges by them, with --edges N (circuits.EdgeScores.top)"
    warnings.warn(f"the circuit has no edges, so {out} has none{reason}", ContentWarning, stacklevel=3)
