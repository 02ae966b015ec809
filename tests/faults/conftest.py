"""How often work is killed, small disks, and a tiny model to be converted."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.zoo.conftest import cache, tiny  # noqa: F401  fixtures

KILLS = "MECH_CIRCUITS_KILLS"


@pytest.fixture
def kills() -> int:
    """Moments at which a function is killed: `$MECH_CIRCUITS_KILLS`, or a few."""
    return int(os.environ.get(KILLS, "3"))


@pytest.fixture
def command_kills() -> int:
    """The same of a command, which takes longer."""
    return int(os.environ.get(KILLS, "2"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small disks: `disk(kilobytes)`. Skips the test where that is not allowed."""
    mounted: list[Path] = []

    def mount(kilobytes: int) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        result = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], capture_output=True, text=True
        )
        if result.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {result.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)
