"""The errors that are the user's to mend, and our warnings.

Everything below `InputError` is reported by the command line as one readable line with exit code 2; any other exception
is a bug of ours (exit code 1, with its traceback).
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something given to us cannot be used; the message says what was given, what was expected, and what to do."""


class ModelError(InputError):
    """A model cannot be loaded, or its graph is not exact."""


class PairsError(InputError):
    """Prompt pairs that cannot be used, with the pair or line number."""


class SchemaError(InputError):
    """A file in a form of another version of this project, newer or older than what is read."""


@contextmanager
def cannot(what: str) -> Iterator[None]:
    """Turns an `OSError` of its block into an `InputError`, with the system's reason: `with cannot(f"read {path}"):`."""
    try:
        yield
    except OSError as problem:
        raise InputError(f"cannot {what}: {problem.strerror or problem}") from None


NO_MEMORY = "there is not enough memory for this; give it more, or a smaller batch size"
CANNOT_WRITE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG,
)  # fmt: skip
"""What is wrong with a disk rather than with us, wherever it is met."""


def of_machine(problem: BaseException) -> str | None:
    """What to say of an error that is the machine's, which lacks memory or room; None for others, which are bugs."""
    if lacks_memory(problem):
        return NO_MEMORY
    if not isinstance(problem, OSError) or problem.errno not in CANNOT_WRITE:
        return None
    return f"{problem.strerror}{'' if problem.filename is None else f' ({problem.filename})'}"


def lacks_memory(problem: BaseException) -> bool:
    """Whether there was not enough memory: Python's error and numpy's; the system's; torch's on an accelerator, told by
    its name so that torch need not be imported here; and those that can be told by their words only: the linker's, torch's on
    a CPU, and that of a thread that finds no room.

    >>> lacks_memory(MemoryError()), lacks_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(problem, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(problem).__mro__):
        return True
    if isinstance(problem, OSError):
        return problem.errno == errno.ENOMEM
    said = str(problem)
    return any(isinstance(problem, kind) and words in said for kind, words in OF_MEMORY)


OF_MEMORY = (
    (RuntimeError, "DefaultCPUAllocator: "),
    (RuntimeError, "Cannot allocate memory"),
    (RuntimeError, "can't start new thread"),
    (ImportError, "failed to map segment"),
    (ImportError, "cannot allocate memory"),
)
"""Errors that only their words tell from others."""


class AttributionWarning(UserWarning):
    """Scores that a measurement contradicts."""


class PairsWarning(UserWarning):
    """Prompt pairs that say little, see `circuits.question.doubts`: numbers about them look like any other."""


class ContentWarning(UserWarning):
    """A file, read or written, that holds less than its reader may expect."""


class DamageWarning(UserWarning):
    """Stored work that was cut short or altered; it is done again."""
