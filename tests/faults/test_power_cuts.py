"""A power cut loses what was not synced. Files are synced before anything is deleted that could make them again, and what an
earlier version left empty is made again by the next command."""

import errno
import os
import shutil
import stat
import sys
import warnings
from contextlib import chdir, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from circuits import InputError
from circuits.errors import DamageWarning
from circuits.files import durable
from circuits.files.atomic import replacing
from circuits.files.durable import make_directory, sync_tree, synced_later
from circuits.measure.store import MANIFEST_FILE, Pieces
from circuits.methods.acdc import acdc
from circuits.runs.directory import RunDirectory
from tests.command import a_place, discover, finished
from tests.faults.killing import files, run_of
from tests.tiny_models import random_pairs, tiny

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="directories are not synced there")
ACDC = ("--method", "acdc", "--threshold", 0.05, "--random-circuits", 0)
COAR = ("--method", "coar", "--samples", 48)
EAP = ("--method", "eap", "--edges", 12, "--random-circuits", 0)


class Disk:
    """What would be there after a power cut: contents and names are on the disk when they were synced.

    Attributes:
        syncs: calls of `os.fsync`.
    """

    def __init__(self):
        self.syncs = 0
        self.contents = {}  # (device, inode) -> time of change and size when it was synced
        self.names = {}  # (device, inode) of a directory -> its names when it was synced
        self.deleted = []

    def fsync(self, handle):
        self.syncs += 1
        result = os.fstat(handle)
        key = result.st_dev, result.st_ino
        if stat.S_ISDIR(result.st_mode):
            self.names[key] = set(os.listdir(handle))
        else:
            self.contents[key] = result.st_size, result.st_mtime_ns

    def lost(self, directory):
        """Files of a directory that a power cut would lose now, and the directory itself if its name would be lost."""
        key = _key(directory)
        lost = [path.name for path in directory.iterdir() if not self._is_there(path, self.names.get(key, ()))]
        return lost if directory.name in self.names.get(_key(directory.parent), ()) else [*lost, str(directory)]

    def _is_there(self, path, names):
        result = path.stat()
        return path.name in names and self.contents.get(_key(path)) == (result.st_size, result.st_mtime_ns)


def _key(path):
    result = path.stat()
    return result.st_dev, result.st_ino


@contextmanager
def watched(monkeypatch):
    """At each deletion of a record or of an old run, the run is on the disk."""
    disk, rmtree = Disk(), shutil.rmtree

    def checked(path, *more, **named):
        if os.path.lexists(path) and Path(path).name.endswith((".unfinished", ".circuits-old")):
            disk.deleted.append(Path(path).name)
            assert disk.lost(Path("RUN").absolute()) == []
        return rmtree(path, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk.fsync)
        patch.setattr(shutil, "rmtree", checked)
        yield disk


# --- what is synced ---------------------------------------------------------------------------------------------------------


def test_a_file_is_synced_before_it_gets_its_name_and_its_directory_after(tmp_path, monkeypatch):
    events, replace = [], os.replace

    def fsync(handle):
        result = os.fstat(handle)
        events.append("directory" if stat.S_ISDIR(result.st_mode) else result.st_size)

    def renamed(*paths):
        events.append("replace")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("four")
    assert events == [4, "replace", "directory"]
    events.clear()
    with synced_later(), replacing(tmp_path / "a") as temporary:
        temporary.write_text("four")
    assert events == ["replace"]
    sync_tree(tmp_path)
    assert events == ["replace", 4, "directory"]
    make_directory(tmp_path / "b" / "c")
    assert events[3:] == ["directory", "directory"]


@pytest.mark.parametrize("method", [ACDC, COAR, ("--method", "exact-edges", "--edges", 5, "--random-circuits", 0)])
def test_a_run_is_on_the_disk_before_its_record_is_deleted(method, tmp_path, monkeypatch):
    a_place(tmp_path / "place")
    with chdir(tmp_path / "place"):
        with watched(monkeypatch) as disk:
            discover(*method)
        assert disk.deleted == [".RUN.unfinished"]
        assert disk.lost(Path("RUN").absolute()) == []
        with watched(monkeypatch) as disk:
            discover(*method, "--overwrite")
        assert disk.deleted == [".RUN.circuits-old", ".RUN.unfinished"]


def test_a_record_left_by_a_kill_goes_when_the_run_is_on_the_disk(tmp_path, monkeypatch, capsys):
    a_place(tmp_path / "place")
    with chdir(tmp_path / "place"):
        with monkeypatch.context() as killed:
            killed.setattr(RunDirectory, "forget_record", lambda self: None)
            discover(*COAR)
        before = files(Path("RUN"))
        discover(*COAR, code=2)
        capsys.readouterr()
        with watched(monkeypatch) as disk:
            discover(*COAR, "--resume")
        assert disk.deleted == [".RUN.unfinished"]
        assert "RUN is already finished" in capsys.readouterr().out
        assert not Path(".RUN.unfinished").exists()
        discover(*COAR, "--resume", "--json", "--batch-size", 3)  # what does not change the question may differ
        assert '"out": "RUN"' in capsys.readouterr().out
        assert files(Path("RUN")) == before
        discover(*COAR[:-1], 32, "--resume", code=2)
        assert "RUN holds a finished run with other options (samples: 48, now 32)" in capsys.readouterr().err
        discover(*ACDC, "--resume", code=2)
        assert "other options (method: 'coar', now 'acdc')" in capsys.readouterr().err
        Path("RUN", "config.toml").write_text("samples = 3\n")  # an edited one says nothing of the run
        discover(*COAR, "--resume")
        discover(*ACDC, "--resume", code=2)
        assert files(Path("RUN")).keys() == before.keys()


def test_pieces_and_steps_are_synced(tmp_path, monkeypatch):
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    import torch

    Pieces(tmp_path / "new" / "s", {"schema": 1}).put("a", torch.ones(1))
    assert disk.lost(tmp_path / "new" / "s") == []
    assert disk.lost(tmp_path / "new") == ["s"]  # a directory has no contents of its own
    acdc(tiny("gpt2"), random_pairs(n=2), 0.1, store=tmp_path / "acdc")
    assert disk.lost(tmp_path / "acdc") == []


def test_what_cannot_be_synced_is_no_error_and_a_broken_disk_is(tmp_path, monkeypatch):
    def fail(number):
        def fsync(handle):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    def write():
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("a")

    fail(errno.EINVAL)
    write()
    fail(errno.EIO)
    with pytest.raises(InputError, match=r"cannot write .*Input/output error"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# --- what was left empty ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.json", "circuit.json", "scores.safetensors", "pairs.jsonl", "all"])
def test_overwrite_replaces_a_run_that_was_emptied(name, tmp_path, capsys):
    prepare = finished(tmp_path / "whole", *EAP)
    prepare(tmp_path / "place")
    wanted = run_of(tmp_path / "whole")
    with chdir(tmp_path / "place"):
        for path in Path("RUN").iterdir():
            if name in (path.name, "all"):
                path.write_bytes(b"")
        capsys.readouterr()
        discover(*EAP, code=2)
        assert "RUN holds a damaged run" in capsys.readouterr().err
        discover(*EAP, "--overwrite")
        assert run_of(Path.cwd()) == wanted
        Path("RUN", "run.json").write_bytes(b"\0" * 4096)
        discover(*EAP, "--overwrite")
        Path("RUN", "thesis.txt").write_bytes(b"years of work")
        Path("RUN", "run.json").write_bytes(b"")
        discover(*EAP, "--overwrite", code=2)  # not a run alone


@pytest.mark.parametrize("method", [ACDC, COAR])
def test_resume_makes_again_what_was_emptied(method, tmp_path, monkeypatch):
    """The run, any file of its record, or both."""
    a_place(tmp_path / "place")
    with chdir(tmp_path / "place"):
        with monkeypatch.context() as killed:
            killed.setattr(RunDirectory, "forget_record", lambda self: None)
            discover(*method)
        wanted = run_of(Path.cwd())
        record = sorted(path.name for path in Path(".RUN.unfinished").iterdir())
        for emptied in ([], *([name] for name in record), record):
            shutil.copytree(".", "../life")
            with chdir("../life"), warnings.catch_warnings():
                warnings.simplefilter("ignore", DamageWarning)
                for name in emptied:
                    Path(".RUN.unfinished", name).write_bytes(b"")
                for path in Path("RUN").iterdir():
                    path.write_bytes(b"")
                discover(*method, "--resume")
                assert run_of(Path.cwd()) == wanted
                assert not Path(".RUN.unfinished").exists()
            shutil.rmtree("../life")


def test_a_run_that_was_being_replaced_is_put_back_when_the_new_one_was_emptied(tmp_path):
    finished(tmp_path / "place", *EAP)
    with chdir(tmp_path / "place"):
        wanted = run_of(Path.cwd())
        Path(".RUN.circuits-old").mkdir()
        shutil.copytree("RUN", ".RUN.circuits-old/RUN")
        for path in Path("RUN").iterdir():
            path.write_bytes(b"")
        with RunDirectory("RUN").claimed():
            assert run_of(Path.cwd()) == wanted
        assert not Path(".RUN.circuits-old").exists()


def test_an_emptied_manifest_is_written_again_by_resume_alone(tmp_path):
    """A store given in Python is not touched: which question it had is for its owner to say."""
    Pieces(tmp_path / "s", {"schema": 1})
    (tmp_path / "s" / MANIFEST_FILE).write_bytes(b"")
    with pytest.raises(InputError, match="delete this file"):
        Pieces(tmp_path / "s", {"schema": 1})


def test_directories_are_not_synced_where_they_cannot_be_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "os", SimpleNamespace(name="nt"))  # as on Windows
    durable.sync_directory(tmp_path / "nothing")
