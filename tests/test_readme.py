import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.real_model
def test_the_readmes_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert "n=16" in code
    exec(compile(code.replace("n=16", "n=2"), "README.md", "exec"), {})
    assert "faithfulness" in capsys.readouterr().out


def test_the_readmes_commands_are_the_makefiles():
    makefile = README.with_name("Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README.read_text(), re.MULTILINE):
        assert f"\n{target}:" in makefile
