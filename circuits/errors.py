"""The errors that are the user's to mend, and our warnings.

Everything below `InputError` is reported by the command line as one readable line with exit code 2; any other exception
is a bug of ours (exit code 1, with its traceback).
"""


class InputError(ValueError):
    """Something given to us cannot be used; the message says what was given, what was expected, and what to do."""


class ModelError(InputError):
    """A model cannot be loaded, or its graph is not exact."""


class PairsError(InputError):
    """Prompt pairs that cannot be used, with the pair or line number."""


NO_MEMORY = "there is not enough memory for this; give it more, or a smaller batch size"


def lacks_memory(problem: BaseException) -> bool:
    """Whether there was not enough memory: Python's error and numpy's; torch's on an accelerator, told by its name so that
    torch need not be imported here; and torch's on a CPU, which can be told by its words only.

    >>> lacks_memory(MemoryError()), lacks_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(problem, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(problem).__mro__):
        return True
    said = str(problem)
    return isinstance(problem, RuntimeError) and "DefaultCPUAllocator" in said and "memory" in said


class AttributionWarning(UserWarning):
    """Scores that a measurement contradicts."""


class DamageWarning(UserWarning):
    """Stored work that was cut short or altered; it is done again."""
