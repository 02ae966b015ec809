"""Gemma Scope's `.npz` files (Lieberum et al. 2024, 2408.05147): JumpReLU autoencoders and transcoders.

A `.npz` is a zip archive of arrays. Only the arrays of a dictionary are read, only if they are plain numbers, and only if each is as long
as its header states; objects, which would need pickle, are refused.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from circuits.dictionaries.activation import Activation
from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.parts import Asked, needed
from circuits.dictionaries.site import DictionarySite
from circuits.errors import InputError, refusing
from circuits.files.untrusted import check_regular, shown

MOST_UNPACKED = 4
"""How much larger than its file an archive may claim to be; weights cannot be compressed much."""
FLOOR = 2**16
"""Bytes that any archive may claim to unpack to."""
ARRAYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "scaling_factor", "w_enc", "w_dec")


def read_gemma_scope(
    path: Path, asked: Asked, stated: DictionarySite | None = None, model: str | None = None
) -> Dictionary:
    """The dictionary of a file.

    Args:
        path: the file.
        asked: what the user requested; the file itself states no site.
        stated: the site, if the configuration of a set states it.
        model: the model that the configuration states.

    Raises:
        InputError: with what is missing, wrong or not supported.
    """
    arrays = _arrays(path)
    scale = arrays.get("scaling_factor")
    if scale is not None and not bool((scale == 1).all()):
        raise InputError(f"{path}: dictionaries with a scaling factor are not supported")
    named = {f"W{name[1:]}" if name.startswith("w_") else name: array for name, array in arrays.items()}
    W_enc, b_enc, W_dec, b_dec, threshold = needed(named, ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"), path)
    return Dictionary.from_weights(
        asked.resolved(stated, path), W_enc, b_enc, W_dec, b_dec, Activation("jumprelu", threshold=threshold), model=model,
        source=asked.source,
    )  # fmt: skip


def _arrays(path: Path) -> dict[str, Tensor]:
    with refusing(f"read {path}"):
        check_regular(path)
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
                if unpacked > max(FLOOR, MOST_UNPACKED * path.stat().st_size):
                    raise InputError(f"{path}: its {path.stat().st_size:,} bytes claim to unpack to {unpacked:,}")
                entries = [entry for entry in archive.infolist() if entry.filename.removesuffix(".npy") in ARRAYS]
                if len({entry.filename for entry in entries}) < len(entries):
                    raise InputError(f"{path} has two arrays of one name")
                return {entry.filename.removesuffix(".npy"): _array(archive, entry, path) for entry in entries}
        except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as problem:
            raise InputError(f"{path} is not a whole .npz archive: {problem}") from None
        except zipfile.zlib.error as problem:  # pyright: ignore[reportAttributeAccessIssue]
            raise InputError(f"{path} is not a whole .npz archive: {problem}") from None


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Tensor:
    where = f"{path}: {entry.filename}"
    with archive.open(entry) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
                version
            )
            if read is None:
                raise ValueError(f"version {version}")
            shape, by_column, dtype = read(file)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as problem:
            raise InputError(f"{where} is not an array: {shown(str(problem))}") from None
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise InputError(
                f"{where} holds {shown(str(dtype))}, and the arrays of a dictionary hold floating-point numbers"
            )
        raw = file.read()
    if (
        any(size < 0 for size in shape)
        or len(shape) > 2
        or int(np.prod(shape, dtype=object)) * dtype.itemsize != len(raw)
    ):
        raise InputError(f"{where} states the shape {shown(shape)}, and has {len(raw):,} bytes")
    array = np.frombuffer(raw, dtype=dtype).reshape(shape, order="F" if by_column else "C")
    wide = np.float64 if dtype.itemsize == 8 else np.float32
    return torch.from_numpy(np.ascontiguousarray(array.astype(wide)))
