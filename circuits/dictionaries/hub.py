"""Dictionaries on the Hugging Face Hub: only the files that are needed are downloaded."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from circuits.errors import InputError
from circuits.files.untrusted import shown
from circuits.model_files import hub_is_known

_ID = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.=+-]+)*)/?")


def is_uri(name: str) -> bool:
    """Whether it is `hf://org/name/file`."""
    return name.startswith("hf://")


def parse_id(name: str, revision: str | None = None) -> tuple[str, str, str | None]:
    """The repository, the path inside it and the revision of `org/name/folder` or `hf://org/name/file?revision=…`.

    Raises:
        InputError: it is neither, nor an existing path.
    """
    if is_uri(name):
        parts = urlsplit(name)
        revision = revision or next(iter(parse_qs(parts.query).get("revision", [])), None)
        name = f"{parts.netloc}{parts.path}"
    match = _ID.fullmatch(name)
    if match is None or ".." in name:
        raise InputError(
            f"there is no file or directory {shown(name)}, and it is not an id of the Hugging Face Hub (org/name, or org/name/folder)"
        )
    return match[1], match[2].strip("/"), revision


def fetch(repository: str, names: Sequence[str], revision: str | None) -> Path:
    """The directory of a repository's snapshot with those of these files that it has.

    Raises:
        InputError: it cannot be reached, or does not exist.
    """
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            repository, revision=revision, allow_patterns=list(names), local_files_only=not hub_is_known()
        )
    except Exception as problem:
        reason = str(problem).strip().splitlines()
        raise InputError(
            f"cannot find the dictionary {repository}: {shown(reason[0] if reason else type(problem).__name__, 200)}"
        ) from None
    return Path(found)


def fetch_file(uri: str) -> Path:
    """The file of `hf://org/name/file`."""
    repository, name, revision = parse_id(uri)
    path = fetch(repository, [name], revision) / name
    if not path.is_file():
        raise InputError(f"{repository} has no file {shown(name)}")
    return path
