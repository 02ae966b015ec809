"""Silences the libraries that models are loaded with."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

verbose = False
"""Whether the user asked for the messages of libraries."""


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without the warnings that transformers and TransformerLens print while loading."""
    if verbose:
        yield
        return
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
