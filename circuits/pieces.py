"""Finished pieces of a long measurement in a directory, so that a killed run goes on where it was.

Each piece is there whole or not at all. A manifest says which question the pieces belong to, and those of another are
refused; a damaged piece counts as missing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from circuits.errors import InputError
from circuits.export.atomic import replacing
from circuits.provenance import Provenance, plain


def question_of(origin: Provenance) -> dict[str, Any]:
    """What of a provenance tells one question from another: all of it but the versions of packages."""
    return {key: value for key, value in plain(origin).items() if key != "versions"}


class Pieces:
    """A directory of pieces, or nothing at all, or pieces in memory.

    Args:
        directory: None: none.
        manifest: what the pieces belong to, as JSON gives it back.
        in_memory: without a directory, keep pieces in memory.

    Attributes:
        kept: the pieces in memory, by name.

    Raises:
        InputError: the directory cannot be used, or holds pieces of another question.
    """

    def __init__(self, directory: str | Path | None, manifest: Mapping[str, Any], in_memory: bool = False) -> None:
        self.directory = None if directory is None else Path(directory)
        self.kept: dict[str, Tensor] = {}
        self._in_memory = in_memory
        if self.directory is None:
            return
        path = self.directory / "manifest.json"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except OSError as problem:
            raise InputError(f"cannot use {self.directory} as a store: {problem.strerror or problem}") from None
        except ValueError:
            raise InputError(f"{path} is not ours; choose another store") from None
        if found is None:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(manifest), encoding="utf-8")
        elif found != manifest:
            raise InputError(f"{self.directory} holds pieces of another question; choose another store")

    def get(self, name: str) -> Tensor | None:
        """The piece of that name, if it is there."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if self.directory is None:
            return self.kept.get(name)
        if not self._path(name).exists():
            return None
        try:
            return load_file(self._path(name))["effects"]
        except (OSError, SafetensorError, KeyError):
            return None

    def put(self, name: str, piece: Tensor) -> None:
        """Keeps a piece; one of the same name is replaced."""
        from safetensors.torch import save_file

        if self._in_memory and self.directory is None:
            self.kept[name] = piece
        if self.directory is not None:
            with replacing(self._path(name)) as temporary:
                save_file({"effects": piece.contiguous()}, temporary)

    def _path(self, name: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{name}.safetensors"
