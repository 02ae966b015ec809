"""Writes a circuit in any format."""

import warnings
from pathlib import Path
from typing import Any

from circuits.errors import ContentWarning, InputError
from circuits.export.catalogue import FORMATS, Format, find_format
from circuits.plain_torch import plain_torch
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming

PRINTABLE = 60
"""Edges that a figure in a paper can show."""


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
        to: the format's name; None: by the suffix of `out`.
        naming: labels and groups of nodes.
        overwrite: replace what is there.
        options: the format's own, as `max_edges=200`, `direction="right"`, `colours="kind"`, `dpi=300`, `d_model=768`.

    Returns:
        the file written.

    Raises:
        InputError: no such format, an option that it does not take, or a file that is there already.
    """
    form, out = find_format(to, out), Path(out)
    given = options | ({"naming": naming} if naming else {})
    unused = [name for name in given if name not in form.takes]
    if unused:
        takers = [other.name for other in FORMATS.values() if unused[0] in other.takes]
        others = f"; these do: {', '.join(takers)}" if takers else ""
        raise InputError(f"format {form.name} takes no {_told(unused[0])}{others}")
    _warn_if_empty(form, circuit, out)
    shown = min(len(circuit), options.get("max_edges") or len(circuit))
    if form.printed and shown > PRINTABLE:
        warnings.warn(
            f"{shown} edges are too dense for print: give --max-edges {PRINTABLE} (max_edges=) or fewer, or groups of nodes",
            ContentWarning,
            stacklevel=3,
        )
    if not form.suffix:
        return form.write(circuit, out, overwrite=overwrite, **given)
    if out.is_dir():
        raise InputError(f"{out} is a directory; format {form.name} is written to a file")
    if (out.exists() or out.is_symlink()) and not overwrite:
        raise InputError(f"{out} is there already; use --overwrite to replace it, or choose another --out")
    form.write(circuit, out, **given)
    return out


def _warn_if_empty(form: Format, circuit: Circuit, out: Path) -> None:
    """Nothing is wrong with an empty circuit, but most who export one have asked for something else."""
    if len(circuit) or (form.every_edge and circuit.scores is not None):
        return
    reason = ""
    if "selection" in circuit.provenance:
        reason = ": no edge that was chosen is on a path from input to logits; choose more"
    elif circuit.scores is not None:
        reason = "; there are scores: choose the strongest edges by them, with --edges N (circuits.EdgeScores.top)"
    warnings.warn(f"the circuit has no edges, so {out} has none{reason}", ContentWarning, stacklevel=3)


def _told(option: str) -> str:
    return "labels or groups" if option == "naming" else f"option {option}"
