"""Writes `docs/options.md`: the options of every method, from their declarations."""

from pathlib import Path

from circuits.methods.catalogue import METHODS, OURS
from circuits.methods.method import Declared
from circuits.methods.options import Option

PAGE = Path(__file__).with_name("options.md")
HEAD = """# Options of the methods

<!-- Written by `make declared` from the declarations in circuits/methods/. -->

All methods of `circuits discover`, with their options. On the command line an option begins with `--`; in a file for `--config` and
in a study file it is a key (`-` and `_` are the same); in Python it is an argument of `circuits.runs.discover.discover`. Options of
another method are refused.
"""


def page() -> str:
    return HEAD + "".join(f"\n## {name}\n\n{_section(METHODS[name])}" for name in OURS)


def _section(method: Declared) -> str:
    facts = [f"Gives {'a circuit' if method.gives == 'circuit' else f'scores of {method.gives}'}: {method.help}."]
    takes_one = "ablation" not in method.unasked
    facts.append(f"Default ablation: `{method.ablation}`." if takes_one else "Takes no metric and no ablation.")
    if method.divided:
        facts.append("One run can be divided among workers.")
    if method.resumable:
        without = f", except with `{'`, `'.join(method.unrecorded)}`" if method.unrecorded else ""
        facts.append(f"`--resume` continues a killed run{without}.")
    rows = "".join(
        f"| `{option.spelled}` | {_value(option)} | {_default(option)} | {_cell(option.help)} |\n"
        for option in method.takes
    )
    return f"{' '.join(facts)}\n\n| option | value | default | |\n|---|---|---|---|\n{rows}"


def _value(option: Option) -> str:
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    return f"{option.kind.described}{f', {option.bounds}' if option.bounds else ''}"


def _default(option: Option) -> str:
    if option.required:
        return "required"
    if isinstance(option.default, bool):
        return "yes" if option.default else "no"
    return "" if option.default is None else f"`{option.default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
