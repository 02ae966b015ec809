"""Models that are loaded by a short name, and their cache.

A first result should need no account, no hub and no GPU. `circuits.load_model("smollm2-135m")` downloads and converts the model
once; afterwards it is read from the cache without a network.

    >>> from circuits import zoo
    >>> zoo.names()
    ('smollm2-135m',)
    >>> zoo.entry("smollm-135m")
    Traceback (most recent call last):
    circuits.errors.InputError: no model is called 'smollm-135m'; did you mean 'smollm2-135m'?

The command line imports this module at every start, so heavy packages are imported only when they are used.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from circuits.errors import InputError, ModelError
from circuits.zoo import smollm2, store
from circuits.zoo.entry import WHEEL_VARIABLE, Answer, FetchError, Golden, Progress, ZooEntry, no_progress
from circuits.zoo.progress import rich_progress

__all__ = [
    "CACHE_VARIABLE", "WHEEL_VARIABLE", "Answer", "FetchError", "Golden", "Progress", "ZooEntry", "cache_dir", "check_golden",
    "damage", "entries", "entry", "fetch", "is_cached", "names", "path", "rich_progress",
]  # fmt: skip

CACHE_VARIABLE = "MECH_CIRCUITS_CACHE"
_ENTRIES = (smollm2.ENTRY,)


def entries() -> tuple[ZooEntry, ...]:
    """Every model that can be loaded by a short name."""
    return _ENTRIES


def names() -> tuple[str, ...]:
    """The short names, in the order of `entries`."""
    return tuple(one.name for one in entries())


def entry(name: str) -> ZooEntry:
    """The model with this short name; `InputError` with the nearest names if there is none."""
    for one in entries():
        if one.name == name:
            return one
    from difflib import get_close_matches

    near = get_close_matches(name, names(), n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(names())}"
    raise InputError(f"no model is called {name!r}; {hint}")


def cache_dir() -> Path:
    """The directory of converted models: `$MECH_CIRCUITS_CACHE`, or the user's cache directory."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("mech-circuits", appauthor=False))


def path(name: str) -> Path:
    """The directory of the model in the cache, which may not exist yet; `InputError` for an unknown name."""
    return cache_dir() / "models" / entry(name).directory


def damage(name: str, full: bool = False) -> str | None:
    """A fault of the copy in the cache; None if it is whole or missing. SHA-256 sums are compared only if `full`."""
    fault = store.problem(path(name), entry(name).files, full)
    return None if fault == store.MISSING else fault


def is_cached(name: str, full: bool = False) -> bool:
    """Whether the cache has a whole copy of the model; `full` compares SHA-256 sums as well as sizes."""
    return store.problem(path(name), entry(name).files, full) is None


def fetch(name: str, progress: Progress | None = None, full: bool = False) -> Path:
    """The model's directory in Hugging Face's layout, downloaded and converted if it is not in the cache.

    Args:
        name: one of `names()`.
        progress: called as `progress(stage, done, total)`, in bytes; see `rich_progress`.
        full: compare the SHA-256 sums of an existing copy.

    A damaged copy is replaced, with a warning. An interrupted download leaves no incomplete copy. Simultaneous processes share
    one conversion.

    Raises:
        InputError: no model has this name.
        FetchError: it cannot be downloaded (no network); the message says what to do.
        ModelError: the cache cannot be written, or the download is not the model.
    """
    known, final = entry(name), path(name)
    try:
        return store.ensure(final, known.files, known.provenance, known.build, progress or no_progress, full)
    except OSError as error:
        room = (known.size_on_disk + 3 * known.size) / 1e6
        raise ModelError(
            f"{name} cannot be put in the cache {cache_dir()}: {error}. Set {CACHE_VARIABLE} to a directory that can "
            f"be written, with {room:,.0f} MB free"
        ) from error
    except FetchError as error:
        raise FetchError(
            f"{name} is not in the cache and cannot be fetched: {error}. Any of these helps: {known.remedies}; or copy "
            f"{final} from a machine that has it (or set {CACHE_VARIABLE} to a cache that does)"
        ) from error


def check_golden(
    name: str, logits: Callable[[list[int]], Any], encode: Callable[[str], Sequence[int]] | None = None
) -> None:
    """Compares a loaded model with its known logits.

    Args:
        name: a short name.
        logits: function from token ids to the logits of the next token, [d_vocab], in float32; called once.
        encode: function from text to token ids without special tokens; if given, the tokenizer is checked first.

    Raises:
        InputError: no model has this name.
        ModelError: a token id or a logit differs.
    """
    golden = entry(name).golden
    if encode is not None:
        golden.check_tokens(name, encode)
    golden.check_logits(name, logits)
