"""A submission to the circuit track of MIB (Mueller et al. 2025): `FOLDER/TASK_MODEL/importances.json`.

The track expects a folder for each task and model (`ioi_gpt2`, `arc-easy_llama3`), with the importance of every edge in
EAP-IG's JSON format. It ranks edges by signed score (CPR) and by size (CMD); positive = helps, as here.
"""

import re
from pathlib import Path
from typing import Any

from circuits.errors import InputError, refusing
from circuits.export.collapsed import collapsed
from circuits.export.eap_ig import write_eap_ig
from circuits.results.circuit import Circuit

FILE = "importances.json"
MODELS = {"gpt2": "gpt2", "qwen2.5-0.5b": "qwen2.5", "gemma-2-2b": "gemma2", "llama-3.1-8b": "llama3"}
"""The names of models in the track."""


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
    name = f"{_named(task or circuit.provenance.get('task'), 'task')}_{_named(_model(circuit, model), 'model')}"
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


def _model(circuit: Circuit, model: str | None) -> Any:
    last = str(circuit.provenance.get("model") or "").rstrip("/").rpartition("/")[2]
    return model or MODELS.get(last.lower(), last)


def _named(value: Any, what: str) -> str:
    """A part of the folder's name: only small letters, digits, dots and hyphens, so that it cannot be a path."""
    text = re.sub(r"[^a-z0-9.]+", "-", str(value or "").lower()).strip("-.")
    if not text or len(text) > 60:
        raise InputError(
            f"the {what} must have a name of 1 to 60 letters, digits, dots and hyphens, got {value!r}; name it"
        )
    return text
