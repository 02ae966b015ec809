"""Finished pieces of a long measurement in a directory, so that a killed run can continue.

A piece is either complete or missing. It has a checksum over its bytes, its name and its question. A manifest records
the question of the pieces; a directory of another question is refused. A truncated or altered piece counts as missing.
Several processes may write to one directory.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from circuits.errors import DamageWarning, InputError
from circuits.files.atomic import replacing
from circuits.files.checksums import json_sum, read_sealed, sealed, sealed_tensor, unsealed_tensor
from circuits.files.durable import make_directory
from circuits.files.untrusted import check_schema, read_bytes
from circuits.results.provenance import Provenance, plain

MANIFEST_FILE = "manifest.json"


def question_of(origin: Provenance) -> dict[str, Any]:
    """A provenance without package versions and what follows from the model: it identifies the question."""
    return {key: value for key, value in plain(origin).items() if key not in ("versions", "computed_in")}


class Pieces:
    """Pieces in a directory, in memory, or not kept at all.

    Args:
        directory: where pieces are stored; None: nowhere.
        manifest: the question of the pieces, as JSON values.
        in_memory: without a directory, keep pieces in memory.

    Attributes:
        kept: the pieces in memory, by name.

    Raises:
        InputError: the directory cannot be used, or has pieces of another question.
    """

    def __init__(self, directory: str | Path | None, manifest: Mapping[str, Any], in_memory: bool = False) -> None:
        self.directory = None if directory is None else Path(directory)
        self.kept: dict[str, Tensor] = {}
        self._in_memory = in_memory
        self._question = json_sum(manifest)
        self._warned = False
        if self.directory is not None:
            _claim(self.directory, manifest)

    def get(self, name: str) -> Tensor | None:
        """The piece of that name; None if it is missing or damaged.

        Warns:
            DamageWarning: a damaged piece; only the first is reported.
        """
        if self.directory is None:
            return self.kept.get(name)
        try:
            raw = read_bytes(self._path(name))
        except FileNotFoundError:
            return None
        except (OSError, InputError):
            raw = b""
        piece = unsealed_tensor(raw, self._key(name))
        if piece is None and not self._warned:
            self._warned = True
            message = f"{self._path(name)} is damaged: it is measured again, and so is every other damaged piece"
            warnings.warn(message, DamageWarning, stacklevel=2)
        return piece

    def put(self, name: str, piece: Tensor) -> None:
        """Stores a piece, and replaces an older one of the same name.

        Raises:
            InputError: the piece cannot be written.
        """
        if self._in_memory and self.directory is None:
            self.kept[name] = piece
        if self.directory is not None:
            with replacing(self._path(name)) as temporary:
                temporary.write_bytes(sealed_tensor(piece, self._key(name)))

    def _key(self, name: str) -> str:
        return f"{self._question} {name}"

    def _path(self, name: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{name}.safetensors"


def _claim(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, or checks the one that is there."""
    path = directory / MANIFEST_FILE
    try:
        make_directory(directory)
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(sealed(manifest)), encoding="utf-8")
            return
    except OSError as problem:
        raise InputError(f"cannot use {directory} as a store: {problem.strerror or problem}") from None
    stored = read_sealed(path)
    if stored is None:
        raise InputError(
            f"{path} is damaged, or was not written by mech-circuits; delete this file if {directory} is the store of this question "
            "(each piece records its question), or choose another store"
        )
    if "schema" in manifest:
        check_schema(stored.get("schema"), manifest["schema"], str(path))
    if stored != manifest:
        raise InputError(f"{directory} holds pieces of another question; choose another store")
