"""Names of run directories: links are followed, and long ones leave nothing behind."""

import sys
from contextlib import chdir
from pathlib import Path

import pytest

from circuits import InputError
from circuits.files.atomic import replacing
from circuits.files.durable import LONGEST_NAME, beside
from circuits.runs.read import read_run
from tests.command import a_place, command, discover

EAP = ("--method", "eap", "--edges", 12, "--random-circuits", 0)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def into(out, *given, code=0):
    discover(*given, "--out", out, code=code)  # the later --out counts


def test_a_run_is_written_where_a_link_leads(tmp_path):
    a_place(tmp_path / "place")
    (tmp_path / "elsewhere" / "real").mkdir(parents=True)
    with chdir(tmp_path / "place"):
        Path("link").symlink_to(tmp_path / "elsewhere" / "real")
        for more in ((), ("--overwrite",)):
            into("link", *EAP, *more)
            assert Path("link").is_symlink()
            assert read_run(tmp_path / "elsewhere" / "real").circuits
        into("link", *EAP, code=2)
        assert sorted(path.name for path in Path().iterdir()) == ["PAIRS.jsonl", "link"]
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["real"]
        Path("nowhere").symlink_to("gone")
        into("nowhere", *EAP, code=2)
        assert Path("nowhere").is_symlink()


@pytest.mark.parametrize("sign", ["n", "é", "ケ"])
def test_a_hidden_name_beside_a_long_one_is_short_enough_and_its_own(sign):
    names = {
        beside(Path("x") / (sign * (length // len(sign.encode())) + end), suffix).name
        for length in (240, 241, 249, 250)
        for end in ("", "a", "b")
        for suffix in (".circuits-part", ".1.circuits-part", ".unfinished")
    }
    lengths = {length // len(sign.encode()) for length in (240, 241, 249, 250)}
    assert len(names) == 9 * len(lengths)
    assert max(len(name.encode()) for name in names) <= LONGEST_NAME
    assert beside(Path("runs/ioi"), ".unfinished") == Path("runs/.ioi.unfinished")


@pytest.mark.parametrize("length", [228, 240, 241, 255])
def test_a_long_name_is_taken_and_leaves_nothing_else(length, tmp_path):
    a_place(tmp_path / "place")
    name = "n" * length
    with chdir(tmp_path / "place"):
        into(name, "--method", "coar", "--samples", 32)
        assert sorted(path.name for path in Path().iterdir()) == ["PAIRS.jsonl", name]
        with replacing(tmp_path / ("f" * length)) as temporary:
            temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f" * length, "place"]


def test_a_name_that_is_too_long_is_refused_before_any_work(tmp_path, capsys):
    a_place(tmp_path / "place")
    name = "n" * 256
    with chdir(tmp_path / "place"):
        into(name, *EAP, code=2)
        assert "File name too long" in capsys.readouterr().err
        command("report", "RUN", "--out", name, code=2)
        with pytest.raises(InputError, match="File name too long"), replacing(name):
            raise AssertionError("started the work")
        assert [path.name for path in Path().iterdir()] == ["PAIRS.jsonl"]
