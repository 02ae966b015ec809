"""The directory of a training.

    OUT/training.json            settings, progress and, at the end, the quality of each dictionary
    OUT/checkpoint.safetensors   the state of an unfinished training
    OUT/mlp_out.3/               a finished autoencoder, as SAELens writes it: cfg.json, sae_weights.safetensors
    OUT/transcoder.3/            a finished transcoder, as EleutherAI's sparsify writes it: cfg.json, sae.safetensors

SAELens 6 has no TopK transcoders, so these are written in sparsify's format. `circuits.load_dictionary` reads both. All files are
written atomically. torch is imported only where tensors are read or written.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.dictionaries.site import TRANSFORMER_LENS, DictionarySite
from circuits.dictionaries.train_spec import TrainingSpec
from circuits.errors import InputError, refusing
from circuits.files.atomic import write_tensors, write_text
from circuits.files.checksums import read_sealed, sealed_json
from circuits.files.durable import make_directory
from circuits.files.locks import sole_writer
from circuits.files.untrusted import as_object, open_tensors, parse_json

if TYPE_CHECKING:
    from torch import Tensor

    from circuits.dictionaries.dictionary import Dictionary

RECORD, CHECKPOINT = "training.json", "checkpoint.safetensors"
Record = Mapping[str, Any]
SAELENS_FORMAT = "6.0.0"
"""The version of SAELens whose format is written; without one, SAELens reads the configuration as one of version 5."""


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """In this block no other process trains into the directory; InputError if one does already."""
    with refusing(f"write to {out}"):
        make_directory(out.absolute().parent)
    with sole_writer(out):
        yield


def check_out(out: Path, spec: TrainingSpec, resume: bool) -> Record | None:
    """Checks, before a model is loaded, that a training can be written here.

    Returns:
        The record of a finished training with the same settings, with `resume`; else None.

    Raises:
        InputError: the directory is taken, or there is nothing to resume there, or it is a training with other settings.
    """
    if not resume:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            more = "; give --resume to continue it" if (out / RECORD).exists() else ""
            raise InputError(
                f"{out} already exists{more}, or choose another directory"
                if more
                else f"{out} already exists; choose another directory"
            )
        return None
    if not (out / RECORD).exists():
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return None  # it was stopped before its first file
        raise InputError(f"{out} has no {RECORD}, so there is no training to resume")
    record = read_record(out)
    difference = spec.difference(as_object(record.get("settings"), f"{out / RECORD}: settings"))
    if difference is not None:
        raise InputError(
            f"the training in {out} has {difference}; resume it with its own settings, or choose another directory"
        )
    return record if record.get("finished") else None


def check_finish(out: Path, resume: bool) -> None:
    """Checks that a training can be finished early; InputError without `resume` or a checkpoint."""
    if not resume:
        raise InputError("finish takes the dictionaries of a checkpoint as they are; give resume, too")
    if not (out / CHECKPOINT).exists() and not (out / RECORD).exists():
        raise InputError(f"{out} has no {CHECKPOINT}, so there is nothing to finish")
    if not (out / CHECKPOINT).exists() and not read_record(out).get("finished"):
        raise InputError(f"{out} has no {CHECKPOINT} yet, so there is nothing to finish; resume it first")


def read_record(out: Path) -> dict[str, Any]:
    """The content of `training.json`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = out / RECORD
    if not path.exists():
        raise InputError(f"{out} is not the directory of a training: it has no {RECORD}")
    record = read_sealed(path)
    if record is None:
        raise InputError(f"{path} is damaged or was changed; its checksum does not agree")
    return record


def write_record(out: Path, record: Record) -> None:
    """Writes `training.json`."""
    write_text(out / RECORD, sealed_json(record, indent=1) + "\n")


def write_checkpoint(out: Path, tensors: "Mapping[str, Tensor]", progress: Mapping[str, Any]) -> None:
    """Writes the state of an unfinished training."""
    write_tensors(tensors, out / CHECKPOINT, {"progress": json.dumps(progress)})


def read_checkpoint(out: Path) -> "tuple[dict[str, Tensor], dict[str, Any]] | None":
    """The last state; None: the training was stopped before its first checkpoint.

    Raises:
        InputError: it cannot be read.
    """
    path = out / CHECKPOINT
    if not path.exists():
        return None
    with open_tensors(path, "a checkpoint of a training") as (file, header):
        progress = as_object(parse_json(header.get("progress", "null")), f"{path}: progress")
        return {name: file.get_tensor(name) for name in file.keys()}, progress  # noqa: SIM118


def delete_checkpoint(out: Path) -> None:
    """Deletes the checkpoint of a training that is finished."""
    with refusing(f"delete {out / CHECKPOINT}"):
        (out / CHECKPOINT).unlink(missing_ok=True)


def write_dictionary(dictionary: "Dictionary", directory: Path) -> None:
    """Writes a TopK dictionary in the format of SAELens, or of sparsify if it is a transcoder; see the module docstring.

    Raises:
        InputError: the directory cannot be written to.
    """
    with refusing(f"write to {directory}"):
        make_directory(directory)
    site = dictionary.site
    named = {"W_dec": dictionary.W_dec, "b_dec": dictionary.b_dec}
    if site.is_transcoder:
        config = _sparsify(dictionary)
        named |= {"encoder.weight": dictionary.W_enc.T, "encoder.bias": dictionary.b_enc}
        named |= {} if dictionary.skip is None else {"W_skip": dictionary.skip}
        weights = "sae.safetensors"
    else:
        config, weights = _saelens(dictionary), "sae_weights.safetensors"
        named |= {"W_enc": dictionary.W_enc, "b_enc": dictionary.b_enc}
    write_tensors({name: tensor.cpu() for name, tensor in named.items()}, directory / weights)
    write_text(directory / "cfg.json", json.dumps(config, indent=1) + "\n")


def _saelens(dictionary: "Dictionary") -> dict[str, Any]:
    return {
        "architecture": "topk", "d_in": dictionary.d_in, "d_sae": dictionary.n_features, "k": dictionary.activation.k,
        "dtype": str(dictionary.W_enc.dtype).removeprefix("torch."), "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "hook_z" if dictionary.site.writes == "hook_z" else "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {
            "sae_lens_version": SAELENS_FORMAT, "model_name": dictionary.model, "hook_name": hook_name(dictionary.site),
        },
    }  # fmt: skip


def _sparsify(dictionary: "Dictionary") -> dict[str, Any]:
    return {
        "activation": "topk", "num_latents": dictionary.n_features, "k": dictionary.activation.k, "d_in": dictionary.d_in,
        "normalize_decoder": False, "multi_topk": False, "skip_connection": dictionary.skip is not None, "transcode": True,
        "model_name": dictionary.model,
    }  # fmt: skip


def hook_name(site: DictionarySite) -> str:
    """TransformerLens' name of what is decomposed: `blocks.3.hook_mlp_out`."""
    name = next(name for name, own in TRANSFORMER_LENS.items() if own == site.writes)
    return f"blocks.{site.layer}.{name}"


def directories(out: Path, sites: Sequence[str]) -> dict[str, Path]:
    """The directory of each finished dictionary, by its site."""
    return {site: out / site for site in sites}
