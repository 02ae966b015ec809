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


class AttributionWarning(UserWarning):
    """Scores that a measurement contradicts."""


class DamageWarning(UserWarning):
    """Stored work that was cut short or altered; it is done again."""
