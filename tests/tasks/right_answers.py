"""What is right after a prompt, worked out again from the prompt's text alone, without the tasks' words."""

import ast
import calendar
import re

CAPITALS = """
Afghanistan:Kabul Australia:Canberra Austria:Vienna Belgium:Brussels Bulgaria:Sofia Canada:Ottawa Chile:Santiago
China:Beijing Cuba:Havana Denmark:Copenhagen Egypt:Cairo England:London Finland:Helsinki France:Paris Germany:Berlin
Greece:Athens Hungary:Budapest Iran:Tehran Iraq:Baghdad Ireland:Dublin Israel:Jerusalem Italy:Rome Japan:Tokyo
Kenya:Nairobi Korea:Seoul Norway:Oslo Peru:Lima Philippines:Manila Poland:Warsaw Portugal:Lisbon Russia:Moscow
Scotland:Edinburgh Spain:Madrid Sweden:Stockholm Syria:Damascus
"""
SPEAKERS = {
    "Arabic": "Egypt Iraq", "Chinese": "China", "Danish": "Denmark", "English": "England", "Finnish": "Finland",
    "French": "France", "German": "Austria Germany", "Greek": "Greece", "Hungarian": "Hungary", "Italian": "Italy",
    "Japanese": "Japan", "Korean": "Korea", "Polish": "Poland", "Portuguese": "Brazil Portugal", "Russian": "Russia",
    "Spanish": "Argentina Mexico Spain", "Swedish": "Sweden", "Thai": "Thailand", "Turkish": "Turkey",
}  # fmt: skip
KINDS = {
    "bird": "crow duck eagle hawk owl parrot penguin pigeon", "fish": "cod salmon shark trout tuna",
    "flower": "lily orchid rose", "fruit": "apple banana cherry grape lemon mango orange peach pear strawberry",
    "insect": "ant bee beetle butterfly mosquito wasp", "instrument": "drum flute guitar piano trumpet violin",
    "metal": "aluminum copper gold iron silver steel", "tree": "cedar maple oak pine willow",
    "vegetable": "broccoli cabbage carrot lettuce onion potato spinach", "vehicle": "bicycle bus car truck van",
}  # fmt: skip
PRESENT = """
ate:eat began:begin broke:break brought:bring built:build bought:buy came:come caught:catch chose:choose drank:drink
drew:draw drove:drive fell:fall felt:feel flew:fly found:find gave:give grew:grow heard:hear held:hold kept:keep
knew:know left:leave lost:lose made:make met:meet paid:pay ran:run rode:ride said:say sang:sing saw:see sent:send
slept:sleep sold:sell spent:spend spoke:speak stood:stand swam:swim taught:teach thought:think told:tell took:take
went:go won:win wrote:write
"""
LIKED = [
    "amazing",
    "beautiful",
    "brilliant",
    "excellent",
    "fantastic",
    "great",
    "incredible",
    "lovely",
    "perfect",
    "wonderful",
]
UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ORDINALS = ["zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]


def _table(text: str) -> dict[str, str]:
    return dict(entry.split(":") for entry in text.split())


def _groups(groups: dict[str, str]) -> dict[str, str]:
    return {member: group for group, members in groups.items() for member in members.split()}


def _roman(number: int) -> str:
    for value, sign in ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        if number >= value:
            return sign + _roman(number - value)
    return ""


def _after(word: str) -> str:
    """The word after this one in its series."""
    for cycle in (list(calendar.day_name), list(calendar.month_name)[1:]):
        if word in cycle:
            return cycle[(cycle.index(word) + 1) % len(cycle)]
    for series in (UNITS, ORDINALS, [_roman(number) for number in range(13)]):
        if word in series:
            return series[series.index(word) + 1]
    raise AssertionError(word)


def _successor(prompt: str) -> str:
    first, second, third = prompt.removesuffix(",").split(", ")
    assert (second, third) == (_after(first), _after(second))
    return " " + _after(third)


def _addition(prompt: str) -> str:
    *shots, asked = prompt.split("\n")
    for shot in shots:
        a, b, total = map(int, re.fullmatch(r"(\d) \+ (\d) = (\d)", shot).groups())
        assert a + b == total
    a, b = map(int, re.fullmatch(r"(\d) \+ (\d) =( ?)", asked).groups()[:2])
    return ("" if asked.endswith(" ") else " ") + str(a + b)


def _docstring(prompt: str) -> str:
    """The argument after the last one that is described, of the function as Python reads it."""
    (function,) = ast.parse(prompt + '"""').body
    arguments = [argument.arg for argument in function.args.args]
    described = re.findall(r":param (\w+):", ast.get_docstring(function))
    return " " + arguments[arguments.index(described[-1]) + 1]


def _induction(prompt: str) -> str:
    *before, last = prompt.split()
    return " " + before[before.index(last) + 1]


def _bracket(prompt: str) -> str:
    stack: list[str] = []
    for character in prompt:
        if character in "([":
            stack.append(character)
        elif character in ")]":
            stack.pop()
    (opened,) = stack
    return {"(": ")", "[": "]"}[opened]


def _acronym(prompt: str) -> str:
    words, letters = re.fullmatch(r"The (.*) \((.*)", prompt).groups()
    initials = [word[0] for word in words.split()]
    given = letters.removesuffix(".").split(".")
    assert initials[: len(given)] == given
    return initials[len(given)]


def _sentiment(prompt: str) -> str:
    reviews = re.findall(r"was (\w+)\. Sentiment:(?: (\w+))?", prompt)
    kinds = ["positive" if adjective in LIKED else "negative" for adjective, _ in reviews]
    assert [given for _, given in reviews] == [*kinds[:2], ""]
    assert set(kinds[:2]) == {"positive", "negative"}
    return f" {kinds[2]}"


def _looked_up(pattern: str, table: dict[str, str]):
    return lambda prompt: " " + table[re.fullmatch(pattern, prompt)[1]]


RIGHT = {
    "acronym": _acronym,
    "addition": _addition,
    "capital": _looked_up(r"The capital of (\w+) is", _table(CAPITALS)),
    "docstring": _docstring,
    "hypernym": _looked_up(r"The (\w+) is a type of", _groups(KINDS)),
    "induction": _induction,
    "official-language": _looked_up(r"The official language of (\w+) is", _groups(SPEAKERS)),
    "open-bracket": _bracket,
    "past-tense": _looked_up(
        r"Every day they (\w+)\. Yesterday they", {now: past for past, now in _table(PRESENT).items()}
    ),
    "sentiment": _sentiment,
    "successor": _successor,
}
"""Name of a task -> the right answer to any of its prompts, clean or corrupted."""
