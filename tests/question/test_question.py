import os
import subprocess
import sys

from circuits.question.question import BATCH_BYTES, LARGEST_BATCH, Question
from tests.tiny_models import random_pairs, tiny


def test_the_default_batch_counts_what_lies_behind_the_common_prefix(monkeypatch):
    model = tiny("gpt2")
    one_token = model.graph.n_writers * int(model.bridge.cfg.d_model) * 8
    monkeypatch.setitem(BATCH_BYTES, "cpu", 4 * 7 * one_token)
    assert Question.ask(model, random_pairs(n=9)).batch_size == 4
    assert Question.ask(model, random_pairs(n=9, prefix=5)).batch_size == 14
    # Zero ablation changes the prefix too.
    assert Question.ask(model, random_pairs(n=9, prefix=5), ablation="zero").batch_size == 4
    monkeypatch.setitem(BATCH_BYTES, "cpu", 1)
    assert Question.ask(model, random_pairs(n=9)).batch_size == 1
    monkeypatch.setitem(BATCH_BYTES, "cpu", 2**40)
    assert Question.ask(model, random_pairs(n=9)).batch_size == LARGEST_BATCH


FREED = """
import torch
from circuits.engine.memory import freed_at_once
size = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
def spent():
    before, held, kept = size(), [], []
    for _ in range(50):
        held.append(torch.ones(2**18))
        kept.append(torch.ones(2**17))
    held.clear()
    return size() - before
with freed_at_once() as done:
    within = spent()
print(done, within, spent())
"""


def test_freed_tensors_go_back_to_the_system_unless_the_user_decided():
    def run(**environment):
        run = subprocess.run(
            [sys.executable, "-c", FREED], capture_output=True, text=True, check=True, env=os.environ | environment
        )
        done, *kilobytes = run.stdout.split()
        return done, *map(int, kilobytes)

    done, within, after = run()
    refused, kept, _ = run(MALLOC_MMAP_THRESHOLD_=str(2**25))
    assert refused == "False"
    if done == "True":
        assert within < 35_000 < min(kept, after)  # 50 blocks of half a megabyte are in use
