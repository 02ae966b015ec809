"""What the benchmarks share: medians of alternating runs in one process, peak memory, and the two models they use."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch
import transformers
from cost import peak_bytes as peak_bytes

import circuits

THREADS, PAIRS, LENGTH = int(os.environ.get("THREADS", "2")), 16, 16


def gpt2_shape() -> circuits.Model:
    """A random model of GPT-2 small's shape."""
    torch.manual_seed(0)
    return circuits.load_model(transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval())


MODELS: dict[str, Callable[[], circuits.Model]] = {
    "SmolLM2-135M": partial(circuits.load_model, "smollm2-135m"),
    "GPT-2 small's shape": gpt2_shape,
}


def in_new_process(work: Callable[[str], float], name: str) -> float:
    """`work(name)` where nothing else has been done: what was freed before changes how memory is handed out."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, name).result()


def random_pairs(model: circuits.Model, n: int = PAIRS, length: int = LENGTH) -> circuits.PromptPairs:
    """Random tokens, without a common prefix."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(3, model.d_vocab, (n, length), generator=generator) for _ in range(2))
    return circuits.PromptPairs.from_tokens(clean.tolist(), corrupted.tolist(), [5] * n, [9] * n)


def medians(works: Mapping[str, Callable[[], object]], runs: int = 5) -> dict[str, float]:
    """Median seconds of each, run in turn, after one run that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run in range(runs + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if run:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
