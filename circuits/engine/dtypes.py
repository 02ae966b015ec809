"""Names of dtypes; light, so that the command line can check them before torch is imported."""

from circuits.errors import InputError

DTYPES = ("float32", "float64", "bfloat16", "float16")


def check_dtype(dtype: str) -> str:
    """The name, if it is that of a dtype.

    Raises:
        InputError: there is no such dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; one of {', '.join(DTYPES)}")
    return dtype
