"""A submission to the circuit track of MIB (Mueller et al. 2025): `FOLDER/TASK_MODEL/importances.json`.

The track expects a folder for each task and model (`ioi_gpt2`, `arc-easy_llama3`), with the importance of every edge in
EAP-IG's JSON format. It ranks edges by signed score (CPR) and by size (CMD); positive = helps, as here.
"""

from pathlib import Path

from circuits.errors import InputError, refusing
from circuits.export.collapsed import collapsed
from circuits.export.eap_ig import write_eap_ig
from circuits.export.mib_names import FILE, folder_part, track_name
from circuits.results.circuit import Circuit


def write_mib(
    circuit: Circuit,
    folder: str | Path,
    *,
    task: str | None = None,
    model: str | None = None,
    d_model: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes one task and model of a submission; others in the folder are kept.

    Args:
        circuit: with a score for every edge of its model.
        folder: of the submission.
        task, model: their names in the track; None: from the circuit's provenance.
        d_model: see `write_eap_ig`.
        overwrite: replace an existing file.

    Returns:
        the file.

    Raises:
        InputError: edges without a score, an invalid name, or a file that exists already.
    """
    circuit = collapsed(circuit, "MIB's format")
    if circuit.scores is None or bool(circuit.scores[circuit.graph.edge_mask].isnan().any()):
        raise InputError(
            "a submission needs a score for every edge of the model; export a run that has scores.safetensors, not a circuit"
        )
    known = track_name(str(circuit.provenance.get("model") or ""))
    name = f"{folder_part(task or circuit.provenance.get('task'), 'task')}_{folder_part(model or known, 'model')}"
    folder = Path(folder)
    inner = folder / name
    target = inner / FILE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a submission is a folder")
    if inner.is_symlink() or target.is_symlink():
        raise InputError(f"{inner} is a symbolic link; remove it")
    if target.exists() and not overwrite:
        raise InputError(f"{target} already exists; use --overwrite to replace it")
    with refusing(f"write to {inner}"):
        inner.mkdir(parents=True, exist_ok=True)
    write_eap_ig(circuit, target, d_model)
    return target
