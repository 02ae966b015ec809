"""`make setup` shows how far the installation is, and all of pip's output if it fails; pip is played by a script."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = """#!/bin/sh
i=0
while [ $i -lt 20 ]; do i=$((i + 1)); echo "Collecting package-$i (from mech-circuits==0.1.0)"; done
echo "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (180.4 MB)"
echo "  Downloading tiny-1.0-py3-none-any.whl (9.9 MB)"
echo "Installing collected packages: one, two, three"
echo "Successfully installed one two three"
exit {code}
"""
SHOWN = [
    "  10 packages found",
    "  20 packages found",
    "  downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (180.4 MB)",
    "  installing 3 packages",
]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("code", [0, 1])
def test_an_installation_shows_how_far_it_is(tmp_path, code):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("pip", "python"):
        (programs / name).write_text(PIP.format(code=code))
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", "setup"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    first, *shown = done.stdout.splitlines()
    assert first.startswith("installing mech-circuits[dev] into .venv")
    assert shown == SHOWN
    assert (done.returncode == 0) is (code == 0)
    assert ("Successfully installed one two three" in done.stderr) is (code == 1)
    assert (tmp_path / ".venv" / "installed-dev").exists() is (code == 0)
    again = subprocess.run(
        ["make", "--no-print-directory", "setup"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ("installing" in again.stdout) is (code == 1)
