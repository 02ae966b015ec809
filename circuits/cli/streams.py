"""Standard output and standard error that a command can always write to.

A terminal may have few characters (cp932, latin-1, ASCII): other characters are replaced by similar ones. The reader may be gone
(`circuits … | head`), or there may be none (`>&-`): the command continues, and its files are not affected.
"""

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unicodedata import normalize

from circuits.errors import InputError

SPELLED = {
    "–": "-", "—": "-", "−": "-", "…": "...", "±": "+-", "×": "x", "→": "->", "·": ".", "•": "*", "≤": "<=", "≥": ">=", "≈": "~",
    "‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " ",
}  # fmt: skip
"""Characters of our texts in ASCII; letters lose their accents, and any other character becomes its code, such as `\\u30b1`."""
ERRORS = "mech-circuits-spelled"


def _spelled(problem: UnicodeError) -> tuple[str, int]:
    """The handler for characters that an encoding does not have."""
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    unknown = problem.object[problem.start : problem.end]
    return "".join(map(_in_ascii, unknown)), problem.end


def _in_ascii(sign: str) -> str:
    """
    >>> _in_ascii("é"), _in_ascii("…"), _in_ascii("ケ")
    ('e', '...', '\\\\u30b1')
    """
    plain = SPELLED.get(sign) or normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return plain or sign.encode("ascii", "backslashreplace").decode()


codecs.register_error(ERRORS, _spelled)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Replaces the process's output streams, see the module docstring; at the end they are flushed.

    Raises:
        InputError: standard output cannot be written to, for example because the disk is full; a missing reader is not an error.
    """
    _fill_handles()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = (
            nowhere if stream is None else _lasting(name, stream)
            for name, stream in zip(("output", "error"), before, strict=True)
        )
        try:
            yield
            sys.stdout.flush()
        finally:
            with suppress(InputError):
                sys.stdout.flush()
                sys.stderr.flush()
            sys.stdout, sys.stderr = before


def _fill_handles() -> None:
    """Opens the closed ones of the handles 0 to 2, so that none of our files gets the number of an output stream."""
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _lasting(name: str, stream: Any) -> Any:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=ERRORS)
    return _Stream(name, stream)


class _Stream:
    """A text stream that discards its text once nobody reads it.

    Args:
        name: `output` or `error`.
        stream: the process's own stream.
    """

    def __init__(self, name: str, stream: Any) -> None:
        self._name, self._stream = name, stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as problem:
            self._lost(problem)
            return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as problem:
            self._lost(problem)

    def _lost(self, problem: OSError) -> None:
        """Discards the stream's buffers."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._name == "output" and not isinstance(problem, BrokenPipeError):
            raise InputError(f"cannot write to standard output: {problem.strerror or problem}") from None
