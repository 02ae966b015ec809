"""Escapes text for pdflatex, without packages, so that nothing in a label can be a command.

Only letters of the outline fonts of every installation are used; in small installations `\\$` and `\\S` would be bitmaps.
"""

import unicodedata

from circuits.errors import InputError


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


_MATHS = _pairs(r"""
    $ \mathdollar  < <  > >  | |  − -  → \rightarrow  ← \leftarrow  ↔ \leftrightarrow  × \times  · \cdot  ± \pm
    ≤ \leq  ≥ \geq  ≠ \neq  ≈ \approx  ∞ \infty  √ \surd  § \mathsection
    α \alpha  β \beta  γ \gamma  δ \delta  ε \epsilon  ζ \zeta  η \eta  θ \theta  ι \iota  κ \kappa  λ \lambda  μ \mu  ν \nu
    ξ \xi  ο o  π \pi  ρ \rho  ς \varsigma  σ \sigma  τ \tau  υ \upsilon  φ \phi  χ \chi  ψ \psi  ω \omega
    Γ \Gamma  Δ \Delta  Θ \Theta  Λ \Lambda  Ξ \Xi  Π \Pi  Σ \Sigma  Υ \Upsilon  Φ \Phi  Ψ \Psi  Ω \Omega
""")
"""Signs that need maths mode."""
_SIGNS = _pairs(r"""
    \ \textbackslash{}  { \{  } \}  & \&  # \#  % \%  _ \_  ^ \textasciicircum{}  ~ \textasciitilde{}  " \char34{}
    ` {}\char96{}  ' \char39{}  - {-}  – {--}  — {---}  … \ldots{}  “ ``{}  ” ''{}  ‘ `{}  ’ '{}
    ß \ss{}  æ \ae{}  Æ \AE{}  œ \oe{}  Œ \OE{}  ø \o{}  Ø \O{}  ł \l{}  Ł \L{}  ı \i{}
""") | {"\u00a0": "~"}
_ACCENTS = {
    "\u0300": r"\`", "\u0301": r"\'", "\u0302": r"\^", "\u0303": r"\~", "\u0304": r"\=", "\u0306": r"\u",
    "\u0307": r"\.", "\u0308": r"\"", "\u030a": r"\r", "\u030b": r"\H", "\u030c": r"\v", "\u0327": r"\c",
}  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX typesets literally.

    Raises:
        InputError: pdflatex has no simple way to write a letter.

    >>> escape("50% of a_1 & <b>")
    '50\\\\% of a\\\\_1 \\\\& \\\\ensuremath{<}b\\\\ensuremath{>}'
    """
    return "".join(_sign(sign, text) for sign in unicodedata.normalize("NFC", text))


def _sign(sign: str, text: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign in _MATHS:
        return rf"\ensuremath{{{_MATHS[sign]}}}"
    if " " <= sign <= "~":
        return sign
    letter, *accents = unicodedata.normalize("NFD", sign)
    if len(accents) == 1 and accents[0] in _ACCENTS and letter.isascii() and letter.isalpha():
        return f"{_ACCENTS[accents[0]]}{{{letter}}}"
    raise InputError(
        f"pdflatex has no {sign!r} (U+{ord(sign):04X}), which the label {text!r} holds; use another label, or SVG or PDF"
    )
