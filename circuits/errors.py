"""Errors that the user can fix, and the package's warnings.

The command line reports an `InputError` as one readable line, with exit code 2. Any other exception is a bug (exit code 1,
with its traceback).
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Invalid input. The message says what was given, what was expected, and what to do."""


class ModelError(InputError):
    """A model cannot be loaded, or its graph is not exact."""


class PairsError(InputError):
    """Invalid prompt pairs. The message has the number of the pair or the line."""


class SchemaError(InputError):
    """A file written by another version of this project, in a format that this version does not read."""


NO_MEMORY = "there is not enough memory for this; give it more, or a smaller batch size"
CANNOT_WRITE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG,
)  # fmt: skip
"""Errors of the disk, not of this package."""
MEMORY_MESSAGES = (
    (RuntimeError, "DefaultCPUAllocator: "),
    (RuntimeError, "Cannot allocate memory"),
    (RuntimeError, "can't start new thread"),
    (ImportError, "failed to map segment"),
    (ImportError, "cannot allocate memory"),
)
"""Errors of too little memory that have no class of their own: torch's on a CPU, a thread's, and the linker's."""


@contextmanager
def refusing(action: str, kind: type[InputError] = InputError) -> Iterator[None]:
    """Turns an `OSError` into an `InputError` that says which action failed, and why.

    >>> with refusing("read pairs.jsonl"):
    ...     open("pairs.jsonl")
    Traceback (most recent call last):
    circuits.errors.InputError: cannot read pairs.jsonl: No such file or directory
    """
    try:
        yield
    except OSError as problem:
        raise kind(f"cannot {action}: {problem.strerror or problem}") from None


@contextmanager
def locating(prefix: str) -> Iterator[None]:
    """Puts the place where the input is, such as `"circuit.json: "`, before the message of an `InputError`."""
    try:
        yield
    except InputError as problem:
        raise InputError(f"{prefix}{problem}") from None


def of_machine(problem: BaseException) -> str | None:
    """The message for an error of the machine (too little memory, a full disk); None for other errors, which are bugs."""
    if lacks_memory(problem):
        return NO_MEMORY
    if not isinstance(problem, OSError) or problem.errno not in CANNOT_WRITE:
        return None
    return f"{problem.strerror}{'' if problem.filename is None else f' ({problem.filename})'}"


def lacks_memory(problem: BaseException) -> bool:
    """Whether there was not enough memory. Torch's error on an accelerator is recognised by its name, without importing torch.

    >>> lacks_memory(MemoryError()), lacks_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(problem, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(problem).__mro__):
        return True
    if isinstance(problem, OSError):
        return problem.errno == errno.ENOMEM
    return any(isinstance(problem, kind) and words in str(problem) for kind, words in MEMORY_MESSAGES)


class AttributionWarning(UserWarning):
    """A measurement contradicts the scores."""


class PairsWarning(UserWarning):
    """Prompt pairs that may not test the behaviour, see `circuits.question.doubts`."""


class ContentWarning(UserWarning):
    """A file that was read or written holds less than expected."""


class DamageWarning(UserWarning):
    """A stored result is incomplete or was changed, and is computed again."""
