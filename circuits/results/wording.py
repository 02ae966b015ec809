"""Metrics and numbers as people read them: `logit difference`, `−1.5 × 10⁻⁵`."""


def metric_name(metric: object) -> str:
    """A metric in words.

    >>> metric_name("logit_difference")
    'logit difference'
    """
    return str(metric or "the metric").replace("_", " ").replace("kl d", "KL d")


def plain_number(value: object, digits: int = 3) -> str:
    """A number with so many significant digits, and powers of ten written out.

    >>> plain_number(-1.545e-05), plain_number(0.52346), plain_number(70651), plain_number(None)
    ('−1.54 × 10⁻⁵', '0.523', '70,651', '–')
    """
    if value is None or value != value:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    mantissa, _, power = f"{value:.{digits}g}".partition("e")
    if not power:
        return mantissa.replace("-", "−")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.replace('-', '−')} × 10{raised}"


def fixed(value: float | None, digits: int = 3, plus: str = "") -> str:
    """A number with so many decimals, and no sign where they are all 0.

    >>> fixed(-0.00004), fixed(-0.52346), fixed(0.5, 2, "+"), fixed(None)
    ('0.000', '-0.523', '+0.50', '–')
    """
    if value is None or value != value:
        return "–"
    return f"{round(value, digits) + 0.0:{plus}.{digits}f}"


def counted(n: int, what: str) -> str:
    """
    >>> counted(1, "random circuit"), counted(2000, "edge")
    ('1 random circuit', '2,000 edges')
    """
    return f"{n:,} {what}{'' if n == 1 else 's'}"
