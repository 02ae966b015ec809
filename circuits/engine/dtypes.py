"""Names of dtypes, in a light module: the command line checks them before it imports torch."""

from circuits.errors import InputError

DTYPES = ("float32", "float64", "bfloat16", "float16")


def check_dtype(dtype: str) -> str:
    """Returns the name if it is a dtype's.

    Raises:
        InputError: an unknown dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; one of {', '.join(DTYPES)}")
    return dtype
