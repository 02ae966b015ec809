"""Writes `docs/options.md`: the options of every method, from their declarations."""

from pathlib import Path

from circuits.cli.methods import default, facts, value
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
    rows = "".join(
        f"| `{option.spelled}` | {_value(option)} | {_quoted(default(option), option)} | {_cell(option.help)} |\n"
        for option in method.takes
    )
    return f"{facts(method)}\n\n| option | value | default | |\n|---|---|---|---|\n{rows}"


def _value(option: Option) -> str:
    return ", ".join(f"`{choice}`" for choice in option.choices) or value(option)


def _quoted(text: str, option: Option) -> str:
    return f"`{text}`" if text and not option.required and not isinstance(option.default, bool) else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
