"""What all readers of dictionaries' files share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.dictionaries.site import DictionarySite, parse_site
from circuits.errors import InputError
from circuits.files.untrusted import open_tensors, shown
from circuits.model_files import is_inside

MOST_TENSORS = 64
"""A dictionary has at most nine."""


@dataclass(frozen=True)
class Asked:
    """What the user requested.

    Attributes:
        site: the site, as text; None: the file's.
        source: the given name of the files.
    """

    site: str | None
    source: str

    def resolved(self, stated: DictionarySite | None, path: Path) -> DictionarySite:
        """The site, if the file's and the user's agree.

        Args:
            stated: the file's; None: it states none.
            path: the file, for messages.

        Raises:
            InputError: they differ, or there is none.
        """
        if self.site is None:
            if stated is None:
                raise InputError(
                    f"{path} does not say where its dictionary belongs; give a site, such as 'mlp_out.3' or 'transcoder.3'"
                )
            return stated
        given = parse_site(self.site)
        if stated is None or given == stated:
            return given
        any_reading = self.site.startswith("transcoder.") and stated.is_transcoder and stated.place == given.place
        if any_reading or (stated.name == given.name):
            return stated
        raise InputError(f"{path} is a dictionary of {stated}, but the given site is {given}")


def file_in(directory: Path, name: str) -> Path:
    """A file in a directory; InputError if it is a link that leads out of the directory."""
    path = directory / name
    if path.is_symlink() and not is_inside(directory, path):
        raise InputError(f"{path} is a link that leads out of the directory; copy that file into the directory")
    return path


def read_weights(path: Path, content: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file, in float32 if they are stored in less.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    with open_tensors(path, content) as (file, _):
        names = list(file.keys())
        if len(names) > MOST_TENSORS:
            raise InputError(f"{len(names)} tensors; a dictionary has at most nine")
        return {name: widened(file.get_tensor(name)) for name in names}


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32, if it is stored in less."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def needed(weights: Mapping[str, Tensor], names: Iterable[str], path: Path) -> list[Tensor]:
    """The tensors of these names; InputError if one is missing."""
    missing = [name for name in names if name not in weights]
    if missing:
        raise InputError(f"{path} has no tensor {', '.join(missing)}; its tensors: {shown(', '.join(sorted(weights)))}")
    return [weights[name] for name in names]


def matrix(tensor: Tensor, name: str, path: Path) -> Tensor:
    """The tensor, if it is a matrix."""
    if tensor.ndim != 2:
        raise InputError(f"{path}: {name} has shape {tuple(tensor.shape)}; expected a matrix")
    return tensor


def text(config: Mapping[str, Any], name: str, path: Path) -> str | None:
    """An entry of a configuration that may be missing; InputError if it is not text."""
    value = config.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: {name} must be text, got {shown(value)}")
    return value


def flag(config: Mapping[str, Any], name: str, path: Path, usual: bool = False) -> bool:
    """An entry of a configuration that is true or false."""
    value = config.get(name, usual)
    if not isinstance(value, bool):
        raise InputError(f"{path}: {name} must be true or false, got {shown(value)}")
    return value


def whole(config: Mapping[str, Any], name: str, path: Path) -> int:
    """An entry of a configuration that is a whole number."""
    value = config.get(name)
    if type(value) is not int:
        raise InputError(f"{path}: {name} must be a whole number, got {shown(value)}")
    return value
