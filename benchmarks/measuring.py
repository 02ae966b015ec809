"""What the benchmarks share: medians of alternating runs in one process, peak memory, and the two models they use.

Every benchmark that imports this takes `--device cuda`.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import cost
import torch
import transformers

import circuits


def _device() -> str:
    """Takes `--device` out of the command line; processes that are started from this one find it in their environment."""
    if "--device" in sys.argv[1:-1]:
        at = sys.argv.index("--device")
        os.environ["DEVICE"] = sys.argv[at + 1]
        del sys.argv[at : at + 2]
    return os.environ.get("DEVICE", "cpu")


DEVICE = _device()
THREADS, PAIRS, LENGTH = int(os.environ.get("THREADS", "2")), 16, 16


def gpt2_shape() -> circuits.Model:
    """A random model of GPT-2 small's shape."""
    torch.manual_seed(0)
    model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    return circuits.load_model(model.eval().to(DEVICE))


MODELS: dict[str, Callable[[], circuits.Model]] = {
    "SmolLM2-135M": partial(circuits.load_model, "smollm2-135m", device=DEVICE),
    "GPT-2 small's shape": gpt2_shape,
}


def wait() -> None:
    """Until the device has done its work."""
    if DEVICE != "cpu":
        torch.cuda.synchronize()


def peak_bytes(work: Callable[[], object]) -> int:
    """How far memory rises: resident memory of the process, or allocated memory of the device; see `cost.peak_bytes`."""
    if DEVICE == "cpu":
        return cost.peak_bytes(work)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


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
            wait()
            start = time.perf_counter()
            work()
            wait()
            if run:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
