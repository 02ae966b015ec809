"""What is checked of a model's directory before a library reads it: files of the right kind, inside it, and of a size to be read.

transformers follows an index wherever it leads (`../x.safetensors`, `/dev/zero`), waits for ever for a pipe, and says "maximum recursion
depth exceeded" of one file in ten. Links are followed inside the directory, and from a snapshot of Hugging Face's cache to its blobs.
Sizes that `config.json` states are the subject of `model_sizes.py`.
"""

import json
import os
import stat
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from circuits.errors import InputError, ModelError
from circuits.files.untrusted import check_plain, check_tensors, estimated_memory, open_regular, shown

CONFIG, TOKENIZER_CONFIG, TOKENIZER = "config.json", "tokenizer_config.json", "tokenizer.json"
INDEXES = {"model.safetensors.index.json": "model.safetensors", "pytorch_model.bin.index.json": "pytorch_model.bin"}
"""Files that name weight files, and the one file that is taken in their place where it is there."""
TEMPLATES = "additional_chat_templates"
READ = (".json", ".jsonl", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".vocab", ".bpe", ".tiktoken", ".py")
"""Endings of what libraries read from a model's directory."""
WEIGHTS = (".safetensors", ".bin")
LARGEST_TEXT, LARGEST_TABLE = 2**24, 2**27
"""Bytes of a configuration, and of an index or a tokenizer's file: four times the largest in use."""
MOST_MEMORY = 2**30
"""Bytes that one JSON file may take once it is read."""
TENSOR = 32
"""Bytes that a tensor takes at least in torch's older format, its name counted."""
MOST_UNPACKED = 4
"""A zip archive of weights is not compressed: how much larger than the file its entries may claim to be."""


@dataclass(frozen=True)
class Weights:
    """What a model's weight files hold.

    Attributes:
        parameters: numbers in them, at most.
        tensors: tensors in them, at most.
    """

    parameters: int
    tensors: int


def find_directory(name: str, revision: str | None = None) -> Path:
    """The directory that transformers reads for a name: itself, or the snapshot in Hugging Face's cache, with its config.json fetched.

    Raises:
        OSError: there is no such model, or no config.json in it; transformers' own error.
    """
    if Path(name).is_dir():
        return Path(name)
    from transformers.utils.hub import cached_file

    found = cached_file(name, CONFIG, revision=revision)
    if found is None:
        raise OSError(f"{name} has no {CONFIG}")
    return Path(found).parent


def check_directory(directory: Path) -> None:
    """Refuses a model's directory that a library would not come back from; costs milliseconds.

    Raises:
        ModelError: a pipe, device or directory in a file's place, a link or a name in an index that leads out of the directory, a
            file too large or nested too deeply to be read; the message names the file.
    """
    try:
        entries = sorted(directory.iterdir())
    except OSError as problem:
        raise ModelError(f"cannot read {directory}: {problem.strerror or problem}") from None
    for entry in entries:
        if entry.name == TEMPLATES and entry.is_dir():
            for template in sorted(entry.iterdir()):
                check_member(directory, template)
        else:
            check_member(directory, entry)
    for index in INDEXES:
        index_members(directory, index)
    told = read_small(directory / TOKENIZER_CONFIG)
    names = told.get("fast_tokenizer_files", [])
    for name in names if isinstance(names, list) else [names]:
        plain_name(directory / TOKENIZER_CONFIG, name)
    read_small(directory / "generation_config.json")


def check_member(directory: Path, entry: Path) -> None:
    """Refuses what is not a regular file, what leads out of the directory, and what is too large for its kind."""
    reads = entry.name.endswith(READ)
    try:
        found = entry.stat()
    except OSError as problem:
        if reads and not _in_cache(directory):  # what the cache has not fetched yet, or has forgotten, is fetched
            raise ModelError(f"cannot read {entry}: {problem.strerror or problem}") from None
        return
    if stat.S_ISDIR(found.st_mode) and not reads:
        return
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{entry} is {_kind(found.st_mode)}; a model's directory holds regular files")
    if not reads:
        return
    if not _inside(directory, entry):
        raise ModelError(
            f"{entry} is a link to {os.path.realpath(entry)}, outside the directory; copy that file into the directory"
        )
    largest = None if entry.name.endswith(WEIGHTS) else LARGEST_TABLE
    if largest is not None and found.st_size > largest:
        raise ModelError(f"{entry} has {found.st_size:,} bytes; such a file has at most {largest:,}")
    try:
        _check_content(entry)
    except InputError as problem:
        raise ModelError(f"{entry}: {problem}") from None
    except OSError as problem:
        raise ModelError(f"cannot read {entry}: {problem.strerror or problem}") from None


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
    """The repository's place in Hugging Face's cache, of a snapshot in it or of a directory below one."""
    for place in directory.resolve().parents:
        if place.name == "snapshots" and place.parent.name.startswith("models--"):
            return place.parent
    return None


def _inside(directory: Path, entry: Path) -> bool:
    """Whether a file is in the directory, once all links are followed, or is one of the cache's blobs that the snapshot stands for."""
    target, places = entry.resolve(), [directory.resolve()]
    if (repository := _in_cache(directory)) is not None:
        places += [repository / "blobs", repository.parent / "blobs"]  # its own, and those shared by all repositories
    return any(target.is_relative_to(place) for place in places)


def plain_name(told_by: Path, name: Any) -> str:
    """A file's name inside the directory, as another file tells it.

    Raises:
        ModelError: it is no text, or leads out of the directory.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ModelError(f"{told_by} names {shown(name)} as a file; expected a file name")
    paths = (PurePosixPath(name), PureWindowsPath(name))
    if any(path.is_absolute() or path.drive or ".." in path.parts for path in paths):
        raise ModelError(f"{told_by} names {shown(name)}; its files must lie inside the directory")
    return name


def index_members(directory: Path, index: str) -> list[Path]:
    """The weight files that an index names, each checked; none where there is no index.

    Raises:
        ModelError: it is no index, or one of them is missing, outside the directory or not a regular file.
    """
    path = directory / index
    if not path.is_file():
        return []
    told = read_small(path, LARGEST_TABLE)
    members = told.get("weight_map")
    if not isinstance(members, dict):
        raise ModelError(f'{path} has no "weight_map" of weight files; is it damaged?')
    found = [directory / plain_name(path, name) for name in dict.fromkeys(map(_hashable, members.values()))]
    for member in found:
        if not os.path.lexists(member):
            if _in_cache(directory):
                continue
            raise ModelError(f"{path} names {member.name}, which is not there; is the download complete?")
        check_member(directory, member)
        if not member.name.endswith(WEIGHTS):
            raise ModelError(f"{path} names {member.name}; expected files of weights ({', '.join(WEIGHTS)})")
    return found


def _hashable(name: Any) -> Any:
    return name if isinstance(name, str) else shown(name)


def weights_in(directory: Path, config: dict[str, Any]) -> Weights | None:
    """What the files hold from which transformers takes the weights, from their headers and sizes; None where they are not there yet."""
    files = _weight_files(directory, config)
    if not files or not all(file.is_file() for file in files):
        return None
    held = [_held(file) for file in files]
    return Weights(sum(weights.parameters for weights in held), sum(weights.tensors for weights in held))


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


def _held(file: Path) -> Weights:
    """A number takes at least an eighth of a byte where a header says how many there are, and a byte elsewhere."""
    size = file.stat().st_size
    if file.suffix != ".safetensors":
        return Weights(size, _entries(file) or size // TENSOR)
    header = _header(file, size)
    entries = [entry for name, entry in header.items() if name != "__metadata__" and isinstance(entry, dict)]
    sizes = [_size(entry.get("shape"), file) for entry in entries]
    return Weights(min(sum(sizes), 8 * size), len(sizes))


def _size(shape: Any, file: Path) -> int:
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ModelError(f"{file}: its header has a tensor without a shape; is it damaged?")
    return prod(shape)


def _entries(file: Path) -> int:
    """Entries of torch's archive, one a tensor; 0 for its older format."""
    if not zipfile.is_zipfile(file):
        return 0
    with zipfile.ZipFile(file) as archive:
        return len(archive.infolist())


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
    """A JSON object as transformers reads it (with NaN, and the last of two equal keys); empty where there is no file.

    Raises:
        ModelError: it is larger than such a file, is no JSON object, or is nested more than 32 deep; the message names the file.
    """
    if not os.path.lexists(path) or not path.exists():
        return {}
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > largest:
                raise ModelError(f"{path} has more than {largest:,} bytes; such a file has at most that")
        told = json.loads(_text(path))
        if not isinstance(told, dict):
            raise ModelError(f"{path} holds {shown(told)}; expected an object of names and values")
        return check_plain(told, str(path))
    except RecursionError:
        raise ModelError(f"{path} is not JSON that can be read: nested too deeply") from None
    except OSError as problem:
        raise ModelError(f"cannot read {path}: {problem.strerror or problem}") from None
    except InputError as problem:
        raise problem if isinstance(problem, ModelError) else ModelError(str(problem)) from None
    except ValueError as problem:
        raise ModelError(f"{path} is not JSON: {problem}") from None


def _text(path: Path) -> str:
    with open_regular(path) as file:
        try:
            return file.read().decode("utf-8-sig")
        except UnicodeDecodeError as problem:
            raise InputError(f"byte {problem.start + 1} is not UTF-8") from None


def why_no_tokenizer(directory: Path) -> str | None:
    """What is wrong with the files of a tokenizer that could not be loaded; None where nothing is seen."""
    for name in (TOKENIZER, "vocab.json", "special_tokens_map.json", "added_tokens.json", TOKENIZER_CONFIG):
        try:
            read_small(directory / name, LARGEST_TABLE)
        except ModelError as problem:
            return str(problem)
    return None
