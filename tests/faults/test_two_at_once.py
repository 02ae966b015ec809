"""The second of two writers to one place is told who the first is; nothing that a killed one leaves blocks the next."""

import os
import socket
import sys
from contextlib import chdir
from pathlib import Path

import filelock
import pytest
import torch

import circuits
from circuits import InputError
from circuits.files import atomic
from circuits.files.atomic import replacing
from circuits.files.locks import sole_writer
from circuits.methods.acdc import acdc
from circuits.runs.directory import RunDirectory
from tests.command import a_place, command, discover, finished
from tests.faults.killing import at_work, attempt
from tests.tiny_models import random_pairs, tiny

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
ACDC = ("--method", "acdc", "--threshold", 0.05, "--random-circuits", 0)


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_the_second_is_told_at_once_who_the_first_is(tmp_path):
    with at_work(lambda ready: next(iter(hold(ready, "RUN"))), tmp_path) as first:
        with (
            pytest.raises(InputError, match=f"process {first} on {socket.gethostname()}, since 2"),
            RunDirectory(tmp_path / "RUN").claimed(),
        ):
            pass
        with RunDirectory(tmp_path / "OTHER").claimed():  # its neighbour is free
            pass
        (tmp_path / "link").symlink_to(tmp_path / "RUN")
        with pytest.raises(InputError, match="another process is writing"), sole_writer(tmp_path / "link"):
            pass
    assert hidden(tmp_path) == [".RUN.circuits-lock"]  # left by the kill
    with RunDirectory(tmp_path / "RUN").claimed() as alone:
        assert alone
    assert hidden(tmp_path) == []


def hold(ready, place):
    with sole_writer(place):
        ready()
        yield


def test_who_holds_a_lock_may_ask_again(tmp_path):
    with sole_writer(tmp_path / "a") as outer, sole_writer(tmp_path / "a") as inner:
        assert (outer, inner) == (True, True)
    assert hidden(tmp_path) == []


def test_commands_refuse_what_another_writes_to(tmp_path, capsys):
    finished(tmp_path / "place", "--method", "eap", "--edges", 12, "--random-circuits", 0)
    with chdir(tmp_path / "place"):
        with at_work(lambda ready: next(iter(hold(ready, "RUN"))), Path.cwd()):
            capsys.readouterr()
            discover("--method", "eap", "--overwrite", code=2)
            command("evaluate", "RUN", code=2)
            output = capsys.readouterr().err.splitlines()
            assert len(output) == 2
            assert all("another process is writing to RUN (process" in line for line in output)
            command("view", "RUN", "--no-attention")  # a reader needs no lock
        discover("--method", "eap", "--edges", 7, "--random-circuits", 0, "--overwrite")
        assert hidden(Path.cwd()) == []


def test_two_searches_of_acdc_cannot_share_a_record_and_two_of_coar_can_share_a_store(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    asked = {"samples": 64, "ablation": "zero"}
    whole = circuits.coar(model, pairs, **asked)

    def search(ready):
        acdc(model, pairs, 0.1, store="store", progress=ready)

    with at_work(search, tmp_path), pytest.raises(InputError, match="another process is writing"):
        acdc(model, pairs, 0.1, store=tmp_path / "store")

    def draw(ready):
        circuits.draw_samples(model, pairs, "samples", share=(0, 2), progress=ready, **asked)

    with at_work(draw, tmp_path), at_work(draw, tmp_path):  # even the same share twice
        result = circuits.coar(model, pairs, store=tmp_path / "samples", **asked)
    assert torch.equal(result.per_prompt, whole.per_prompt)
    assert torch.equal(circuits.coar(model, pairs, store=tmp_path / "samples", **asked).per_prompt, whole.per_prompt)


def test_without_locks_work_goes_on_and_runs_are_whole(tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    with sole_writer(tmp_path / "a") as alone:
        assert not alone
    a_place(tmp_path / "place")
    with chdir(tmp_path / "place"):
        discover("--method", "eap", "--edges", 12, "--random-circuits", 0)
        (Path(".RUN.circuits-part")).mkdir()  # it may be another's at work
        discover("--method", "eap", "--edges", 6, "--random-circuits", 0, "--overwrite")
        assert hidden(Path.cwd()) == [".RUN.circuits-part"]


# --- temporary files ------------------------------------------------------------------------------------------------------


def test_a_killed_writers_temporary_is_taken_over_and_a_living_ones_is_left_alone(tmp_path):
    target = tmp_path / "file"

    def write(ready):
        with replacing("file") as temporary:
            temporary.write_text("half")
            ready()

    with at_work(write, tmp_path), at_work(write, tmp_path):
        assert hidden(tmp_path) == [".file.1.circuits-part", ".file.circuits-part"]
        with replacing(target) as temporary:
            assert temporary.name == ".file.2.circuits-part"
            temporary.write_text("whole")
        assert hidden(tmp_path) == [".file.1.circuits-part", ".file.circuits-part"]
    with replacing(target) as temporary:
        assert (temporary.name, temporary.read_bytes()) == (".file.circuits-part", b"")
    assert (hidden(tmp_path), target.read_bytes()) == ([], b"")


def test_what_is_in_the_way_of_a_temporary_is_left_alone(tmp_path):
    (tmp_path / ".a.circuits-part").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".a.1.circuits-part").symlink_to(tmp_path / "mine")
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("a")
    assert (tmp_path / "a").read_text() == "a"
    assert (tmp_path / "mine").read_text() == "mine"
    assert hidden(tmp_path) == [".a.1.circuits-part", ".a.circuits-part"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half" * (1 // 0))
    with pytest.raises(InputError, match="cannot write"), replacing(tmp_path / "a" / "b"):
        pass
    (tmp_path / "directory").mkdir()
    with pytest.raises(InputError, match="cannot write"), replacing(tmp_path / "directory"):
        pass
    assert (hidden(tmp_path), (tmp_path / "a").read_text()) == ([], "old")


def test_temporaries_have_random_names_where_files_cannot_be_locked(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "not supported")

    monkeypatch.setattr(atomic.fcntl, "flock", no_locks)
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert (tmp_path / "a").read_text() == "1"


def test_a_run_is_overwritten_though_a_killed_command_left_a_temporary_in_it(tmp_path):
    finished(tmp_path / "place", "--method", "eap", "--edges", 12, "--random-circuits", 0)
    run = tmp_path / "place" / "RUN"

    def evaluate(ready):
        with replacing(run / "evaluation.json"):
            ready()

    with at_work(evaluate, tmp_path):
        pass
    assert hidden(run) == [".evaluation.json.circuits-part"]
    with chdir(tmp_path / "place"):
        discover("--method", "eap", "--edges", 12, "--random-circuits", 0, "--overwrite")
    assert hidden(run) == []


def test_a_run_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path, monkeypatch):
    from circuits.runs.discover import discover as discovery

    finished(tmp_path / "place", "--method", "eap", "--edges", 12, "--random-circuits", 0)
    run = tmp_path / "place" / "RUN"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    rename = os.rename

    def failing(source, target):
        if str(source).endswith(".circuits-part"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    model, pairs = tiny("gpt2"), random_pairs(n=2)
    result = discovery(model, pairs, method="eap", edges=5, random_circuits=0)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(InputError, match="Input/output error"):
        RunDirectory(run, overwrite=True).write(result, pairs)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert hidden(tmp_path / "place") == []


@pytest.mark.parametrize("moment", ["old away", "new there"])
def test_a_run_that_was_being_replaced_is_put_back_unless_the_new_one_is_there(tmp_path, moment):
    for name in (".RUN.circuits-old/RUN", ".RUN.circuits-part"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(name)
    if moment == "new there":
        (tmp_path / ".RUN.circuits-part").rename(tmp_path / "RUN")
    with RunDirectory(tmp_path / "RUN").claimed():
        pass
    assert (tmp_path / "RUN" / "run.json").read_text() == (
        ".RUN.circuits-old/RUN" if moment == "old away" else ".RUN.circuits-part"
    )
    assert hidden(tmp_path) == []


def test_what_is_not_ours_beside_a_run_is_left_alone(tmp_path):
    finished(tmp_path / "place", "--method", "eap", "--edges", 5, "--random-circuits", 0)
    theirs = (
        "place/.RUN.circuits-part/mine.txt",
        "place/.RUN.circuits-old/RUN/mine.txt",
        "place/.RUN.old",
        "place/.RUN.lock",
    )
    for name in theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    with chdir(tmp_path / "place"):
        discover("--method", "eap", "--edges", 6, "--random-circuits", 0, "--overwrite")
    assert all((tmp_path / name).read_text() == "mine" for name in theirs)


def test_a_killed_holder_in_the_middle_of_a_run_leaves_nothing_for_long(tmp_path):
    a_place(tmp_path / "place")
    assert attempt(lambda progress: discover(*ACDC), tmp_path / "place", 30).killed
    with RunDirectory(tmp_path / "place" / "RUN").claimed():
        assert hidden(tmp_path / "place") == [".RUN.circuits-lock", ".RUN.unfinished"]
