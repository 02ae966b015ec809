"""The registry: names, places, known logits; and that importing it costs nothing."""

import doctest
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from circuits import zoo
from circuits.errors import InputError, ModelError

NAME = "smollm2-135m"


def test_the_registry_lists_what_the_command_line_shows() -> None:
    (entry,) = zoo.entries()
    assert zoo.names() == (NAME,) == (entry.name,)
    assert zoo.entry(NAME) is entry
    assert entry.licence == "Apache-2.0"
    assert (entry.size, round(entry.size_on_disk / 1e6)) == (92_871_040, 542)
    assert "\n" not in entry.description


def test_the_examples_in_the_documentation_run() -> None:
    failed, tried = doctest.testmod(zoo)
    assert (failed, tried) == (0, 3)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("smollm2", "did you mean 'smollm2-135m'"), ("SmolLM2-135M", "smollm2-135m"), ("", "there are: smollm2-135m")],
)
@pytest.mark.parametrize("function", [zoo.entry, zoo.path, zoo.is_cached, zoo.damage, zoo.fetch])
def test_an_unknown_name_is_answered_with_the_nearest(function: Callable, name: str, hint: str) -> None:
    with pytest.raises(InputError, match=rf"no model is called {name!r}; .*{hint}"):
        function(name)


def test_the_cache_is_where_the_variable_says_and_else_where_the_system_keeps_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(zoo.CACHE_VARIABLE, str(tmp_path))
    assert zoo.cache_dir() == tmp_path
    assert zoo.path(NAME).parent == tmp_path / "models"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv(zoo.CACHE_VARIABLE, "~/here")
    assert zoo.cache_dir() == tmp_path / "here"
    for value in (None, ""):
        monkeypatch.delenv(zoo.CACHE_VARIABLE)
        if value is not None:
            monkeypatch.setenv(zoo.CACHE_VARIABLE, value)
        assert zoo.cache_dir().name.lower() == "mech-circuits" or "mech-circuits" in zoo.cache_dir().parts
        monkeypatch.setenv(zoo.CACHE_VARIABLE, "")


def test_asking_creates_nothing(cache: Path) -> None:
    assert not zoo.is_cached(NAME)
    assert zoo.damage(NAME, full=True) is None
    assert zoo.path(NAME).parent.parent == cache
    assert not cache.exists()


def golden_logits(**changes: float) -> Callable[[list[int]], np.ndarray]:
    """Known values in their places, but for the changes."""
    golden = zoo.entry(NAME).golden

    def logits(ids: list[int]) -> np.ndarray:
        assert tuple(ids) == golden.token_ids
        values = np.zeros(49152, np.float32)
        for answer in golden.answers:
            values[answer.token_id] = changes.get(answer.text.strip(), answer.logit)
        return values

    return logits


def test_known_logits_pass_within_the_tolerance() -> None:
    zoo.check_golden(NAME, golden_logits())
    zoo.check_golden(NAME, golden_logits(Mary=10.774 + 0.019, the=7.730 - 0.019))


@pytest.mark.parametrize("changes", [{"Mary": 10.80}, {"the": 7.70}, {"Mary": math.nan}, {"the": math.inf}])
def test_other_logits_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=r"smollm2-135m: the logit of ' \w+' after 'When Mary.*' is .*, expected"):
        zoo.check_golden(NAME, golden_logits(**changes))


def test_a_tokenizer_is_checked_first_if_it_is_given() -> None:
    golden = zoo.entry(NAME).golden
    known = {golden.prompt: golden.token_ids[1:], " Mary": (5099,), " the": (260,)}
    zoo.check_golden(NAME, golden_logits(), lambda text: list(known[text]))
    with pytest.raises(ModelError, match=r"its tokenizer turns ' the' into \[261\], expected \[260\]"):
        zoo.check_golden(NAME, golden_logits(Mary=0), lambda text: list({**known, " the": (261,)}[text]))


def test_importing_the_zoo_imports_nothing_heavy() -> None:
    heavy = "numpy torch transformers safetensors tokenizers einops rich platformdirs filelock subprocess zipfile"
    code = f"import sys, circuits.zoo; print(*set({heavy.split()!r}) & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


BARS = """
import io, sys
from circuits.zoo import rich_progress
sys.stderr.isatty = lambda: {terminal}
with rich_progress() as progress:
    {calls}
print("rich" in sys.modules)
"""


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "calls", ["pass", "progress('download', 1, 10); progress('download', 10, 10); progress('waiting', 0, 0)"]
)
def test_bars_are_drawn_on_a_terminals_standard_error_and_nowhere_else(terminal: bool, calls: str) -> None:
    command = [sys.executable, "-c", BARS.format(terminal=terminal, calls=calls)]
    environment = {"TERM": "xterm", "PATH": ""}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert result.stdout == f"{calls != 'pass'}\n"
    assert ("download" in result.stderr) == (terminal and calls != "pass")
    assert bool(result.stderr) == (terminal and calls != "pass")
