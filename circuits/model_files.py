"""Checks a model's directory before a library reads it: regular files, inside the directory, and not too large.

transformers follows any path in an index (`../x.safetensors`, `/dev/zero`), waits forever for a pipe, and reports one invalid file
in ten as "maximum recursion depth exceeded". Links may lead to files in the directory, and from a snapshot of Hugging Face's
cache to its blobs. `model_sizes.py` checks the sizes that `config.json` states.
"""

import json
import os
import socket
import stat
import threading
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from circuits.errors import InputError, ModelError, refusing
from circuits.files.untrusted import (
    check_plain,
    check_regular,
    check_tensors,
    estimated_memory,
    open_regular,
    read_bytes,
    shown,
)
from circuits.plugins import check_model_path

CONFIG, TOKENIZER_CONFIG, TOKENIZER = "config.json", "tokenizer_config.json", "tokenizer.json"
INDEXES = {"model.safetensors.index.json": "model.safetensors", "pytorch_model.bin.index.json": "pytorch_model.bin"}
"""Indexes of weight files, and the single file that is used instead if it exists."""
TEMPLATES = "additional_chat_templates"
READ = (".json", ".jsonl", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".vocab", ".bpe", ".tiktoken", ".py")
"""Suffixes of the files that libraries read from a model's directory."""
WEIGHTS = (".safetensors", ".bin")
LARGEST_TEXT, LARGEST_TABLE = 2**24, 2**27
"""Largest configuration, and largest index or tokenizer file, in bytes: four times the largest in use."""
MOST_MEMORY = 2**30
"""Bytes of memory that one JSON file may need."""
TENSOR = 32
"""Fewest bytes of a tensor in torch's older format, with its name."""
PATIENCE = 3.0
"""Seconds to wait for the address of the hub."""
MOST_UNPACKED = 4
"""How much larger than its file an archive of weights may claim to be; such archives are not compressed."""


@dataclass(frozen=True)
class Weights:
    """Upper bounds of the content of a model's weight files.

    Attributes:
        parameters: numbers.
        tensors: tensors.
    """

    parameters: int
    tensors: int


def find_directory(name: str, revision: str | None = None) -> Path:
    """The directory that transformers reads for a name: a directory, or a snapshot in Hugging Face's cache, whose config.json is
    downloaded. Without a connection to the hub, only the cache is looked at.

    Raises:
        InputError: see `plugins.check_model_path`.
        OSError: there is no such model, or it has no config.json.
    """
    check_model_path(name)
    if Path(name).is_dir():
        return Path(name)
    from transformers.utils.hub import cached_file

    config = cached_file(name, CONFIG, revision=revision, local_files_only=not hub_is_known())
    if config is None:
        raise OSError(f"{name} has no {CONFIG}")
    return Path(config).parent


def hub_is_known() -> bool:
    """Whether the hub's address can be resolved; its client would try for half a minute. A proxy resolves it by itself."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE or getproxies():
        return not HF_HUB_OFFLINE
    answers: list[bool] = []

    def ask() -> None:
        with suppress(OSError):
            answers.append(bool(socket.getaddrinfo(urlsplit(ENDPOINT).hostname, 443)))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return bool(answers)


def check_directory(directory: Path) -> None:
    """Checks all files that libraries read; takes milliseconds.

    Raises:
        ModelError: a file is a pipe, device or directory, is too large or nested too deeply, or a link or a name in an index leads
            out of the directory; the message names the file.
    """
    with refusing(f"read {directory}", ModelError):
        entries = sorted(directory.iterdir())
    for entry in entries:
        if entry.name == TEMPLATES and entry.is_dir():
            for template in sorted(entry.iterdir()):
                check_member(directory, template)
        else:
            check_member(directory, entry)
    for index in INDEXES:
        index_members(directory, index)
    names = read_small(directory / TOKENIZER_CONFIG).get("fast_tokenizer_files", [])
    for name in names if isinstance(names, list) else [names]:
        plain_name(directory / TOKENIZER_CONFIG, name)
    read_small(directory / "generation_config.json")


def check_member(directory: Path, entry: Path) -> None:
    """Refuses anything but a regular file, a link out of the directory, and a file that is too large for its kind."""
    reads = entry.name.endswith(READ)
    try:
        with refusing(f"read {entry}", ModelError):
            status = entry.stat()
    except ModelError:
        if reads and not _in_cache(directory):  # files missing in the cache are downloaded later
            raise
        return
    if stat.S_ISDIR(status.st_mode) and not reads:
        return
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{entry} is {_kind(status.st_mode)}; a model's directory holds regular files")
    if not reads:
        return
    if not is_inside(directory, entry):
        raise ModelError(
            f"{entry} is a link to {os.path.realpath(entry)}, outside the directory; copy that file into the directory"
        )
    largest = None if entry.name.endswith(WEIGHTS) else LARGEST_TABLE
    if largest is not None and status.st_size > largest:
        raise ModelError(f"{entry} has {status.st_size:,} bytes; such a file has at most {largest:,}")
    with refusing(f"read {entry}", ModelError):
        try:
            _check_content(entry)
        except InputError as problem:
            raise ModelError(f"{entry}: {problem}") from None


def _check_content(entry: Path) -> None:
    if entry.suffix == ".safetensors":
        check_tensors(entry)
    elif entry.suffix == ".bin" and zipfile.is_zipfile(entry):
        try:
            with zipfile.ZipFile(entry) as archive:
                unpacked = sum(part.file_size for part in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as problem:
            raise InputError(f"is not a whole archive of weights: {problem}") from None
        if unpacked > MOST_UNPACKED * entry.stat().st_size:
            raise InputError(f"its {entry.stat().st_size:,} bytes claim to unpack to {unpacked:,}")
    elif entry.suffix == ".json" and estimated_memory(_text(entry)) > MOST_MEMORY:
        raise InputError(f"has so many small parts that it would take over {MOST_MEMORY // 2**20:,} MB of memory")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _in_cache(directory: Path) -> Path | None:
    """The repository in Hugging Face's cache that this snapshot, or directory below one, belongs to."""
    for place in directory.resolve().parents:
        if place.name == "snapshots" and place.parent.name.startswith("models--"):
            return place.parent
    return None


def is_inside(directory: Path, entry: Path) -> bool:
    """Whether a file, with all links followed, is in the directory or is a blob of its repository in the cache."""
    target, places = entry.resolve(), [directory.resolve()]
    if (repository := _in_cache(directory)) is not None:
        places += [repository / "blobs", repository.parent / "blobs"]  # of the repository, and shared
    return any(target.is_relative_to(place) for place in places)


def plain_name(source: Path, name: Any) -> str:
    """The name of a file inside the directory, as given in another file; ModelError if it leads out of the directory."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ModelError(f"{source} names {shown(name)} as a file; expected a file name")
    paths = (PurePosixPath(name), PureWindowsPath(name))
    if any(path.is_absolute() or path.drive or ".." in path.parts for path in paths):
        raise ModelError(f"{source} names {shown(name)}; its files must lie inside the directory")
    return name


def index_members(directory: Path, index: str) -> list[Path]:
    """The checked weight files that an index names; none if the index does not exist.

    Raises:
        ModelError: it is not an index, or a file is missing, outside the directory or not a regular file.
    """
    path = directory / index
    if not path.is_file():
        return []
    weight_map = read_small(path, LARGEST_TABLE).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f'{path} has no "weight_map" of weight files; is it damaged?')
    names = dict.fromkeys(name if isinstance(name, str) else shown(name) for name in weight_map.values())
    members = [directory / plain_name(path, name) for name in names]
    for member in members:
        if not os.path.lexists(member):
            if _in_cache(directory):
                continue
            raise ModelError(f"{path} names {member.name}, which is not there; is the download complete?")
        check_member(directory, member)
        if not member.name.endswith(WEIGHTS):
            raise ModelError(f"{path} names {member.name}; expected files of weights ({', '.join(WEIGHTS)})")
    return members


def weights_in(directory: Path, config: dict[str, Any]) -> Weights | None:
    """The content of a model's weight files, from their headers and sizes; None if they are not all there yet."""
    files = _weight_files(directory, config)
    if not files or not all(file.is_file() for file in files):
        return None
    parts = [_content(file) for file in files]
    return Weights(sum(part.parameters for part in parts), sum(part.tensors for part in parts))


def _weight_files(directory: Path, config: dict[str, Any]) -> list[Path]:
    named = config.get("transformers_weights")
    if named is not None:
        name = plain_name(directory / CONFIG, named)
        if name.endswith(".index.json"):
            return index_members(directory, name)
        if (directory / name).exists():
            check_member(directory, directory / name)
        return [directory / name]
    for index, single in INDEXES.items():
        if (directory / single).exists():
            return [directory / single]
        if (directory / index).exists():
            return index_members(directory, index)
    return []


def _content(file: Path) -> Weights:
    """A number takes at least an eighth of a byte in safetensors, and a byte elsewhere."""
    size = file.stat().st_size
    if file.suffix != ".safetensors":
        if not zipfile.is_zipfile(file):
            return Weights(size, size // TENSOR)
        with zipfile.ZipFile(file) as archive:
            return Weights(size, len(archive.infolist()) or size // TENSOR)
    header = _header(file, size)
    entries = [entry for name, entry in header.items() if name != "__metadata__" and isinstance(entry, dict)]
    sizes = [_size(entry.get("shape"), file) for entry in entries]
    return Weights(min(sum(sizes), 8 * size), len(sizes))


def _size(shape: Any, file: Path) -> int:
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ModelError(f"{file}: its header has a tensor without a shape; is it damaged?")
    return prod(shape)


def _header(file: Path, size: int) -> dict[str, Any]:
    with open_regular(file) as opened:
        length = int.from_bytes(opened.read(8), "little")
        text = opened.read(length) if length <= size else b""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ModelError(f"{file} has no header of a safetensors file; is the download complete?")
    return header


def read_small(path: Path, largest: int = LARGEST_TEXT) -> dict[str, Any]:
    """A JSON object as transformers reads it (with NaN, and the last of two equal keys); empty if the file does not exist.

    Raises:
        ModelError: the file is too large, is not a JSON object, or is nested more than 32 deep; the message names the file.
    """
    if not os.path.lexists(path) or not path.exists():
        return {}
    try:
        with refusing(f"read {path}", ModelError):
            check_regular(path)
            if path.stat().st_size > largest:
                raise ModelError(f"{path} has more than {largest:,} bytes; such a file has at most that")
            data = json.loads(_text(path))
        if not isinstance(data, dict):
            raise ModelError(f"{path} holds {shown(data)}; expected an object of names and values")
        return check_plain(data, str(path))
    except RecursionError:
        raise ModelError(f"{path} is not JSON that can be read: nested too deeply") from None
    except InputError as problem:
        raise problem if isinstance(problem, ModelError) else ModelError(str(problem)) from None
    except ValueError as problem:
        raise ModelError(f"{path} is not JSON: {problem}") from None


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise InputError(f"byte {problem.start + 1} is not UTF-8") from None


def why_no_tokenizer(directory: Path) -> str | None:
    """The first fault in the files of a tokenizer that could not be loaded; None if there is none."""
    for name in (TOKENIZER, "vocab.json", "special_tokens_map.json", "added_tokens.json", TOKENIZER_CONFIG):
        try:
            read_small(directory / name, LARGEST_TABLE)
        except ModelError as problem:
            return str(problem)
    return None
