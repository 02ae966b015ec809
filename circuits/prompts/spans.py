"""Spans: every prompt divided into named runs of tokens, in order and without gaps; the same names in every prompt of a task.

Roles name some tokens of a prompt. The others make spans too, with names that follow from the roles:

- `start`: the tokens before the first role;
- `S1+`: the tokens between the role `S1` and the next one;
- `end`: the token whose logits are read, if no role has it.

The names in their order are a *schema*. It is the same in every pair, for prompts of any length, so scores can have an axis of spans
where they cannot have one of positions. A span is never empty.
"""

from collections.abc import Mapping, Sequence

from circuits.errors import PairsError
from circuits.prompts.aligned import aligned, by_diff, check_way
from circuits.prompts.pair import Encoder, Place, Roles, TokenIds, as_roles, bounds, show
from circuits.prompts.unfit import UnfitError

START, END, AFTER = "start", "end", "+"


def partition(places: Mapping[str, Place], length: int, position: int, where: str, what: str = "role") -> Roles:
    """The spans of one prompt: the given places, and the tokens before, between and after them.

    Args:
        places: name -> token or range of tokens, in any order.
        length: number of tokens of the prompt.
        position: the token whose logits are read.
        where, what: for messages: the pair, and what the places are.

    Raises:
        PairsError: places overlap, lie outside the prompt, or have a name that the tokens between others get.

    >>> dict(partition({"S1": (3, 5), "S2": 7}, length=10, position=9, where="pair 0"))
    {'start': (0, 3), 'S1': (3, 5), 'S1+': (5, 7), 'S2': 7, 'S2+': 8, 'end': 9}
    """
    named = dict(places)
    if END not in named and not any(low <= position < high for low, high in map(bounds, named.values())):
        named[END] = position
    result: list[tuple[str, Place]] = []
    at, gap, before = 0, START, ""
    for name, place in sorted(named.items(), key=lambda entry: bounds(entry[1])):
        low, high = bounds(place)
        if high > length:
            raise PairsError(f"{where}: {what} {show(name)} is at {show(place)}, and the prompt has {length} tokens")
        if low < at:
            raise PairsError(
                f"{where}: {what}s {show(before)} and {show(name)} overlap at token {low}, so they are no division into spans; "
                'give the pair "spans" without one of them'
            )
        result += [(gap, _place(at, low))] if low > at else []
        result.append((name, place))
        at, gap, before = high, f"{name}{AFTER}", name
    result += [(gap, _place(at, length))] if length > at else []
    names = [name for name, _ in result]
    for name in names:
        if names.count(name) > 1:
            raise PairsError(
                f"{where}: {what} {show(name)} has the name that the tokens {_which(name)} get; give it another one"
            )
    return Roles.from_mapping(dict(result))


def schema(partitions: Sequence[Roles]) -> tuple[str, ...]:
    """The names of the spans, in order, which all prompts share.

    Args:
        partitions: the spans of each prompt.

    Raises:
        PairsError: a prompt has other spans than the first, or another order.
    """
    first = tuple(partitions[0])
    for number, spans in enumerate(partitions):
        if tuple(spans) != first:
            raise _different(number, tuple(spans), first)
    return first


def alignment(
    way: str, clean: TokenIds, corrupted: TokenIds, position: int, named: Roles, of_corrupted: object, where: str
) -> TokenIds:
    """The alignment of a pair's prompts; empty if they belong together token by token.

    Args:
        way: `spans` or `diff`.
        clean, corrupted, position: the prompts, and the clean token whose logits are read.
        named: the spans or roles of the clean prompt.
        of_corrupted: name -> token or range of tokens of the corrupted prompt.
        where: the pair, for messages.

    Raises:
        PairsError: there is no such way, or no alignment.
    """
    check_way(way)
    spans = as_roles(of_corrupted, where, "span of the corrupted prompt")
    if not corrupted or (len(clean) == len(corrupted) and not spans):
        return ()
    if way == "diff":
        roles = by_diff(clean, corrupted)
    elif not spans:
        raise UnfitError(
            "of unequal length without spans of the corrupted prompt",
            f"{where}: clean has {len(clean)} tokens, corrupted {len(corrupted)}, and no spans of the corrupted prompt are given; "
            'give "corrupted_spans", or align the tokens by a diff',
        )
    else:
        at = max(len(corrupted) - (len(clean) - position), 0)  # as far from the end
        own = partition(named, len(clean), position, where)
        other = partition(spans, len(corrupted), at, where, "span of the corrupted prompt")
        roles = span_alignment(own, other, where)
    return () if roles == tuple(range(len(corrupted))) else roles


def span_alignment(clean: Roles, corrupted: Roles, where: str) -> TokenIds:
    """The alignment of each span of the clean prompt with the corrupted prompt's span of the same name.

    Args:
        clean, corrupted: the spans of both prompts.
        where: the pair, for messages.

    Raises:
        PairsError: the prompts have other spans, or another order of them.
    """
    if tuple(clean) != tuple(corrupted):
        raise PairsError(
            f"{where}: the spans of the clean prompt are {', '.join(clean)}, and those of the corrupted one "
            f"{', '.join(corrupted)}; expected the same names in the same order (or align the tokens by a diff)"
        )
    places = zip(clean.values(), corrupted.values(), strict=True)
    return aligned([(bounds(own), bounds(other)) for own, other in places])


def text_place(model: Encoder, prompt: str, tokens: TokenIds, start: int, stop: int) -> Place | None:
    """The tokens of `prompt[start:stop]`, with the spaces before it; None if they do not begin and end there.

    Args:
        model: a model with a tokenizer.
        prompt, tokens: the prompt as text and as tokens.
        start, stop: the first character, and the one behind the last.
    """
    before, through = (tuple(model.encode(text)) for text in (prompt[:start].rstrip(" "), prompt[:stop]))
    fits = tokens[: len(before)] == before and tokens[: len(through)] == through and len(before) < len(through)
    return _place(len(before), len(through)) if fits else None


def _place(start: int, stop: int) -> Place:
    return start if stop == start + 1 else (start, stop)


def _which(name: str) -> str:
    """The tokens that get this name by themselves, in words."""
    return "before the first role" if name == START else f"after {show(name.removesuffix(AFTER))}"


def _different(number: int, names: tuple[str, ...], first: tuple[str, ...]) -> PairsError:
    common = [name for name in first if name in names]
    if [name for name in names if name in common] != common:
        return PairsError(
            f"pair {number} has the spans {', '.join(names)}, and pair 0 {', '.join(first)}; they must be in the same order in "
            "all pairs: use pairs of one order (of the task ioi: 'ioi(order=ABBA)'), or name spans by their place (name1, name2)"
        )
    missing = [(name, number, 0) for name in first if name not in names]
    name, lacks, has = (missing or [(name, 0, number) for name in names if name not in first])[0]
    base = name.removesuffix(AFTER)
    if name == START or (base != name and base in common):
        return PairsError(
            f"pair {lacks} has no token {_which(name)}, and pair {has} has ({name!r}); a span must not be empty in one pair and "
            f"full in another: let the role beside it cover these tokens in every pair, as a range such as [3, 5]"
        )
    return PairsError(
        f'pair {lacks} has no span {name!r}, and pair {has} has; give all pairs the same roles, or "spans" with those they share'
    )
