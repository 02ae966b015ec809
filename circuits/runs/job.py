"""What every method of the main job is given besides its own options, and what is done with every circuit."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from circuits.evaluation.faithfulness import Faithfulness, faithfulness
from circuits.progress import StageProgress, StageReport
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.workers.workers import Workers


@dataclass(frozen=True, eq=False)
class Job:
    """What every method is given besides its own options.

    Attributes:
        question: model, pairs, metric and ablation, validated.
        batch_size: as asked for.
        seed: of whatever is drawn.
        stage: progress reporting.
        seconds: wall time per stage, filled in as the stages end.
        test: whether circuits are tested; else their faithfulness is NaN.
        workers: who measures, where the method can be divided; None: this process.
    """

    question: Question
    batch_size: int | None
    seed: int
    stage: StageProgress
    seconds: dict[str, float]
    test: bool = True
    workers: Workers | None = None

    @contextlib.contextmanager
    def timed(self, name: str, stage: str) -> Iterator[StageReport]:
        start = time.perf_counter()
        with self.stage(stage) as progress:
            yield progress
        self.seconds[name] = round(time.perf_counter() - start, 3)

    @property
    def asked(self) -> dict[str, Any]:
        """What all methods of the library take."""
        question = self.question
        return {"metric": question.metric, "ablation": question.ablation, "batch_size": self.batch_size}


def tested(job: Job, circuit: Circuit, random_circuits: int) -> tuple[Faithfulness, float | None]:
    """A circuit's faithfulness, and the model's accuracy where pairs have distractors; nothing is measured if not to be."""
    model, pairs = job.question.model, job.question.pairs
    if not job.test:
        unknown = torch.full((len(pairs),), torch.nan, dtype=torch.float64)
        names = job.question.metric.name, job.question.ablation.label
        return Faithfulness(math.nan, unknown, unknown, unknown, unknown[:0], len(circuit), *names), None
    with job.timed("evaluation", "testing the circuit") as progress:
        faith = faithfulness(
            model, pairs, circuit, n_random=random_circuits, seed=job.seed, progress=progress, **job.asked
        )
    return faith, None if faith.answers is None else faith.answers.accuracy
