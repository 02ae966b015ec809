"""Work on Ray: the same bits as in one process, whatever happens to the workers."""

import contextlib
import os
import random
import re
import subprocess
import sys
import textwrap
from functools import partial

import pytest
import torch

import circuits
import tasks
from circuits.errors import InputError
from circuits.methods.exact_edges import exact_edge_effects
from circuits.study import StudyDirectory, parse_study, run_study, table, write_table
from tests.study.small import TEXT, write_small_study
from tests.workers.units import die, die_below, exhaust, refuse, threads

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def ray_workers():
    from circuits.workers.ray import RayWorkers

    with RayWorkers(number=min(2, os.cpu_count() or 1)) as workers:
        yield workers


def test_divided_methods_give_the_same_bits(ray_workers):
    model = circuits.load_model("compiled/induction")
    pairs = tasks.load("compiled/induction").pairs(model, n=6, seed=0)
    for alone, shared in (
        [circuits.coar(model, pairs, samples=80, fit="ridge", workers=who) for who in (None, ray_workers)],
        [exact_edge_effects(model, pairs, workers=who) for who in (None, ray_workers)],
        [circuits.activation_patching(model, pairs, positions="each", workers=who) for who in (None, ray_workers)],
    ):
        assert torch.equal(alone.per_prompt, shared.per_prompt)


def test_a_killed_worker_is_replaced(ray_workers, tmp_path):
    assert dict(ray_workers.map(die, str(tmp_path / "died"), range(5))) == {i: 10 * i for i in range(5)}


def test_a_worker_that_always_dies(ray_workers):
    with pytest.raises(
        InputError, match="a worker died on one unit of work 4 times; the usual cause is too little memory"
    ):
        list(ray_workers.map(die, None, [0]))


def test_where_no_worker_can_start(tmp_path):
    """As where memory is full already: Ray's monitor kills each worker while it starts. What was computed before is not lost."""
    code = """
        from circuits.errors import InputError
        from circuits.workers import ray
        ray.RESTARTS = 5
        with ray.RayWorkers(number=2) as workers:
            try:
                print(list(workers.map(print, None, range(5))))
            except InputError as problem:
                print(problem, flush=True)
    """
    full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "50"}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | full,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert re.match("a worker died 6 times before it began; the usual cause is too little memory", run.stdout), run


def test_the_other_units_are_done_all_the_same(ray_workers):
    """Each of two units kills more workers than there are; the last one finds one in their place."""
    units = ray_workers.map(die_below, 2, range(5))
    result = [next(units) for _ in range(3)]
    with pytest.raises(InputError, match="a worker died on one unit of work 4 times"):
        next(units)
    assert sorted(result) == [(2, 2), (3, 3), (4, 4)]


def test_errors_keep_their_kind_and_words(ray_workers):
    with pytest.raises(circuits.PairsError, match=r"^no pairs in 7$"):
        list(ray_workers.map(refuse, None, [7]))
    for who in ("torch", "Python"):
        with pytest.raises(InputError, match=r"^in a worker, there is not enough memory"):
            list(ray_workers.map(exhaust, None, [who]))


def test_one_thread_a_worker(ray_workers):
    assert set(dict(ray_workers.map(threads, None, range(4))).values()) == {1}


def test_too_many_workers():
    from circuits.workers.ray import RayWorkers

    with pytest.raises(InputError, match="do not fit"):
        RayWorkers(number=10_000)


@pytest.mark.parametrize("on", ["ray://127.0.0.1:1", "127.0.0.1:1", "no-such-host.invalid:6379", "127.0.0.1:99999"])
def test_where_nobody_listens(on, monkeypatch):
    import ray

    from circuits.workers.ray import RayWorkers

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray tries for a quarter of an hour"))
    with pytest.raises(InputError, match=r"Ray cannot be reached at .*; is its port right\?"):
        RayWorkers(on)


@pytest.mark.parametrize("result", ["environment", "file"])
def test_auto_where_the_cluster_has_ended(result, monkeypatch, tmp_path):
    import ray

    from circuits.workers.ray import RayWorkers

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray tries for minutes"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if result == "file":
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1\n")
    else:
        monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    with pytest.raises(InputError, match=r"'auto': .*refused; auto is .*127.0.0.1:1: has that cluster ended\?"):
        RayWorkers("auto")


def test_workers_that_would_be_waited_for_without_end():
    from circuits.workers.ray import RayWorkers, room_on

    assert room_on({"CPU": 8.0}, 3, 0.0) == 2
    assert room_on({"CPU": 8.0}, 1, 1.0) == 0
    assert room_on({"CPU": 8.0, "GPU": 2.0}, 1, 0.6) == 2  # not three: each GPU has room for one
    assert room_on({"CPU": 8.0, "GPU": 2.0}, 1, 0.25) == 8
    assert room_on({"CPU": 8.0, "GPU": 5.0}, 1, 2.0) == 2
    with pytest.raises(InputError, match="a part of one GPU, or a whole number"):
        RayWorkers(gpus=1.5)


def test_a_study_gives_the_same_table_though_workers_are_killed(ray_workers, tmp_path):
    """`MECH_CIRCUITS_KILLS` of them, at most six in one go, each in the middle of some run."""
    import psutil

    study = write_small_study(tmp_path, TEXT.replace(', "changed.jsonl", "short.jsonl"', ""))
    assert len(study.requests) == 2 * 4 * 2
    alone = StudyDirectory.begin(tmp_path / "alone")
    run_study(study, alone)
    left, draw = int(os.environ.get("MECH_CIRCUITS_KILLS", "2")), random.Random(0)
    while left:
        moments = set(draw.sample(range(2, 14), min(left, 6)))
        left -= len(moments)
        shared = StudyDirectory.begin(tmp_path / f"shared-{left}")
        killed = []

        def killing(done, total, note="", moments=moments, killed=killed):
            if total == 16 and done in moments:
                alive = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::_Worker")]
                victim = draw.choice(alive)
                killed.append(victim.pid)
                victim.kill()

        outcome = run_study(study, shared, workers=ray_workers, stage=partial(_reporting, killing))
        assert len(killed) == len(moments)
        assert outcome.states == {"done": 16}
        for directory in (alone, shared):
            for name in ("table.csv", "table.parquet"):
                write_table(table(study, directory), directory.path / name)
        for name in ("table.csv", "table.parquet"):
            assert (alone.path / name).read_bytes() == (shared.path / name).read_bytes()
        for run in (alone.path / "runs").iterdir():
            for file in ("scores.safetensors", "circuit.json", "pairs.jsonl"):
                if (run / file).exists():
                    assert (run / file).read_bytes() == (shared.path / "runs" / run.name / file).read_bytes()


@contextlib.contextmanager
def _reporting(report, stage):
    yield report


def test_runs_of_a_study_can_be_divided(ray_workers, tmp_path):
    study = parse_study(
        'models = ["compiled/sort"]\ntasks = ["compiled/sort"]\nn = 4\n[methods.coar]\nsamples = 64\nfit = "ridge"\n'
        "[methods.exact-edges]\n[methods.eap]\n"
    )
    alone, divided = (StudyDirectory.begin(tmp_path / name) for name in ("alone", "divided"))
    assert run_study(study, alone).states == {"done": 3}
    assert run_study(study, divided, workers=ray_workers, divide_runs=True).states == {"done": 3}
    assert table(study, alone) == table(study, divided)
