import os
import subprocess
import sys

import pytest

from circuits import InputError, PromptPairs
from circuits.errors import PairsError
from circuits.question.batch_memory import BATCH_BYTES, LARGEST_BATCH
from circuits.question.question import Question
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


def test_a_question_asked_again_uses_what_is_prepared():
    question = Question.ask(tiny("gpt2"), random_pairs(n=9), ablation="mean")
    again = question.again(metric="log_probability", usual_size=2, whole_prompts=True)
    assert again.ablation is question.ablation
    assert again.pairs is question.pairs
    assert (again.metric.name, again.batch_size, again.whole_prompts) == ("log_probability", 2, True)
    assert question.again(ablation="zero").ablation.name == "zero"


def test_a_batch_size_that_was_asked_for_stays():
    question = Question.ask(tiny("gpt2"), random_pairs(n=9), batch_size=4)
    assert question.again(usual_size=2).batch_size == question.again(large_batches=True).batch_size == 4


def test_a_question_asked_again_is_checked():
    pairs = PromptPairs.from_tokens([[3, 4]], [[3, 5]], [6])
    with pytest.raises(PairsError, match="logit_difference needs distractors"):
        Question.ask(tiny("gpt2"), pairs, "probability").again(metric="logit_difference")
    with pytest.raises(InputError, match="there is no ablation 'men'"):
        Question.ask(tiny("gpt2"), pairs, "probability").again(ablation="men")


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
