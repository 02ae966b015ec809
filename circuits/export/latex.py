"""Text for LaTeX, as pdflatex takes it without any package: nothing in a label can be a command.

Only letters of the fonts that every installation has as outlines are used; `\\$` and `\\S` would be bitmaps in small ones.
"""

import unicodedata

from circuits.errors import InputError

_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\ensuremath{\mathdollar}",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
    '"': r"\char34{}",
    "`": r"{}\char96{}",
    "'": r"\char39{}",
    "-": r"{-}",
    "–": r"{--}",
    "—": r"{---}",
    "−": r"\ensuremath{-}",
    "→": r"\ensuremath{\rightarrow}",
    "←": r"\ensuremath{\leftarrow}",
    "↔": r"\ensuremath{\leftrightarrow}",
    "×": r"\ensuremath{\times}",
    "·": r"\ensuremath{\cdot}",
    "±": r"\ensuremath{\pm}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "≠": r"\ensuremath{\neq}",
    "≈": r"\ensuremath{\approx}",
    "∞": r"\ensuremath{\infty}",
    "√": r"\ensuremath{\surd}",
    "…": r"\ldots{}",
    "“": r"``{}",
    "”": r"''{}",
    "‘": r"`{}",
    "’": r"'{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
    "§": r"\ensuremath{\mathsection}",
    "\u00a0": "~",
}
_ACCENTS = {
    "\u0300": r"\`",
    "\u0301": r"\'",
    "\u0302": r"\^",
    "\u0303": r"\~",
    "\u0304": r"\=",
    "\u0306": r"\u",
    "\u0307": r"\.",
    "\u0308": r"\"",
    "\u030a": r"\r",
    "\u030b": r"\H",
    "\u030c": r"\v",
    "\u0327": r"\c",
}
_LETTERS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lamda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "final_sigma",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
]
_NO_COMMAND = {"omicron": "o", "final_sigma": r"\varsigma", "lamda": r"\lambda"}
_GREEK = {chr(0x3B1 + i): _NO_COMMAND.get(name, f"\\{name}") for i, name in enumerate(_LETTERS)}
_GREEK |= {chr(0x391 + i): f"\\{_LETTERS[i].capitalize()}" for i in (2, 3, 7, 13, 15, 18, 20, 21, 23, 24)}
_GREEK |= {"\u039b": r"\Lambda"}


def escape(text: str) -> str:
    """Text that LaTeX sets as it stands.

    Raises:
        InputError: a letter that pdflatex has no plain way to write.

    >>> escape("50% of a_1 & <b>")
    '50\\\\% of a\\\\_1 \\\\& \\\\ensuremath{<}b\\\\ensuremath{>}'
    """
    return "".join(_sign(sign, text) for sign in unicodedata.normalize("NFC", text))


def _sign(sign: str, text: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign in _GREEK:
        return rf"\ensuremath{{{_GREEK[sign]}}}"
    if " " <= sign <= "~":
        return sign
    letter, *accents = unicodedata.normalize("NFD", sign)
    if len(accents) == 1 and accents[0] in _ACCENTS and letter.isascii() and letter.isalpha():
        return f"{_ACCENTS[accents[0]]}{{{letter}}}"
    raise InputError(
        f"pdflatex has no {sign!r} (U+{ord(sign):04X}), which the label {text!r} holds; use another label, or SVG or PDF"
    )
