"""Alignments: which token of a corrupted prompt belongs to each token of a clean prompt of another length.

An alignment gives each clean token a corrupted token, and never goes back: a later clean token has the same corrupted token or a
later one. Interchange ablation replaces a writer's value at a clean token by its value at the corrupted token.

Both prompts are cut into the same number of parts, part by part: by their spans, or by a diff of their tokens. In each pair of
parts, the last tokens belong together, then those before them, as a word's last token carries its meaning. Clean tokens that are
left over take the first corrupted token of the part. A part that only the clean prompt has takes the corrupted token that follows.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from circuits.errors import PairsError
from circuits.prompts.unfit import UnfitError

WAYS = ("spans", "diff")
Range = tuple[int, int]
TokenIds = tuple[int, ...]


def check_way(way: object) -> None:
    """Refuses what is not one of `WAYS`."""
    if way not in WAYS:
        raise PairsError(f"align is {way!r}; expected {' or '.join(map(repr, WAYS))}")


def by_diff(clean: TokenIds, corrupted: TokenIds) -> TokenIds:
    """The alignment by the longest equal runs of tokens (`difflib`); prompts of one length stay as they are, token by token.

    >>> by_diff((1, 2, 3, 4, 5), (1, 7, 4, 5))
    (0, 1, 1, 2, 3)
    """
    if len(clean) == len(corrupted):
        return tuple(range(len(clean)))
    shared = _shared(clean, corrupted)
    codes = SequenceMatcher(None, clean[shared:], corrupted[shared:], autojunk=False).get_opcodes()
    parts = [((a + shared, b + shared), (c + shared, d + shared)) for _, a, b, c, d in codes]
    return aligned([((0, shared), (0, shared)), *parts])


def aligned(parts: Iterable[tuple[Range, Range]]) -> TokenIds:
    """The alignment of parts that cover both prompts; see the module docstring."""
    parts = list(parts)
    last = max(stop for _, (_, stop) in parts) - 1
    return tuple(
        max(stop - (high - token), start) if stop > start else min(start, last)
        for (low, high), (start, stop) in parts
        for token in range(low, high)
    )


def back(alignment: Sequence[int], token: int) -> int:
    """The clean token that belongs to a corrupted token: the last one aligned with it; if none is, the first one behind it.

    >>> [back((0, 1, 1, 3), token) for token in range(4)]
    [0, 2, 3, 3]
    """
    before = bisect_right(alignment, token) - 1
    at = before if before >= 0 and alignment[before] == token else before + 1
    return min(at, len(alignment) - 1)


def check_alignment(alignment: TokenIds, clean: TokenIds, corrupted: TokenIds, position: int, where: str) -> None:
    """Refuses an invalid alignment, or one that leaves the token whose logits are read without a partner."""
    n = len(corrupted)
    if len(alignment) != len(clean):
        raise PairsError(
            f"{where}: the alignment has {len(alignment)} entries, and the clean prompt {len(clean)} tokens; expected a "
            "corrupted token for each"
        )
    if list(alignment) != sorted(alignment) or not 0 <= alignment[0] <= alignment[-1] < n:
        raise PairsError(
            f"{where}: the alignment is {list(alignment)[:40]}; expected tokens of the corrupted prompt (0 to {n - 1}), none "
            "before the one that precedes it"
        )
    if back(alignment, alignment[position]) != position:
        raise UnfitError(
            "without a partner of the token that is read",
            f"{where}: the token whose logits are read ({position}) shares its token of the corrupted prompt with a later one; "
            "change the prompts or their spans, so that it has one of its own",
        )


def shared_prefix(alignment: TokenIds, clean: TokenIds, corrupted: TokenIds) -> int:
    """The number of leading tokens that are the same in both prompts, if no later clean token is aligned with one of them."""
    rows = zip(clean, alignment, strict=True)
    same = next((i for i, (token, to) in enumerate(rows) if to != i or token != corrupted[to]), len(clean))
    return min((same, *alignment[same:]))


def differing(alignment: TokenIds, clean: TokenIds, corrupted: TokenIds) -> list[int]:
    """The clean tokens that are not the token they are aligned with, or that share it with a later one."""
    rows = enumerate(zip(clean, alignment, strict=True))
    return [i for i, (token, to) in rows if token != corrupted[to] or back(alignment, to) != i]


def _shared(clean: TokenIds, corrupted: TokenIds) -> int:
    both = zip(clean, corrupted, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(clean), len(corrupted)))
