"""A method's measurements made by workers: pieces come back, as they would be read from a store.

A method that can be divided cuts its work into named pieces (`circuits.measure.store`), and is a `Measurement`: asked again in a
worker (`Asked`), it measures some of them there. Workers measure those that are missing; then the method goes through all of
them as always, and finds nothing left to measure.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from circuits.errors import InputError
from circuits.measure.store import Pieces
from circuits.model import Model, load_model
from circuits.model_calls import hooks_of
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import Ablation
from circuits.question.metrics import Metric
from circuits.question.question import Question
from circuits.workers.workers import Workers


@dataclass(frozen=True)
class ModelSource:
    """How a worker gets a model: loaded by its name, like everybody else.

    Attributes:
        name, dtype, device, device_map, revision, trust_remote_code: for `circuits.load_model`.
        weights_hash: what its weights must be; None: any.
        state: of its files, where these may change while a worker lives.
    """

    name: str
    dtype: str | None = None
    device: str = "auto"
    device_map: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    weights_hash: str | None = None
    state: str = ""

    @classmethod
    def of(cls, model: Model) -> "ModelSource":
        """The source of a loaded model.

        Raises:
            InputError: it was given as an object, so that no other process can load it, or has hooks that would stay behind.
        """
        if model.loaded_by is None:
            raise InputError(
                f"workers load a model by its name, and {model.name} was given as an object; save it to a directory and load "
                "it from there"
            )
        if hooks := hooks_of(model):
            raise InputError(
                f"workers load a model by its name, and the hooks on {model.name} ({hooks[0]}) stay behind; compute in this process"
            )
        dtype = str(model.dtype).removeprefix("torch.")
        asked = dict(model.loaded_by)
        if asked.get("device") == "auto" and asked.get("device_map") is None:
            asked["device"] = model.device.type  # a worker without a GPU would take its processor, and give other bits
        return cls(dtype=dtype, weights_hash=model.weights_hash, revision=model.revision, **asked)

    def load(self) -> Model:
        """The model; this process keeps the last one that it loaded, and smaller ones besides (`KEPT_BYTES`).

        Raises:
            InputError: it cannot be loaded, or has other weights than it should.
        """
        model = _loaded(
            self.name, self.dtype, self.device, self.device_map, self.revision, self.trust_remote_code, self.state
        )  # fmt: skip
        if self.weights_hash is not None and model.weights_hash != self.weights_hash:
            raise InputError(f"{self.name} has other weights here than where the work was begun")
        return model


KEPT_BYTES = 2**31
"""Models that together take no more stay loaded, so that a study of small models loads each once in each process; of larger
ones the last alone stays."""
_kept: dict[tuple[Any, ...], Model] = {}
"""Those that are loaded, by what they were asked for as; the last one asked for is the last."""


def _loaded(
    name: str,
    dtype: str | None,
    device: str,
    device_map: str | None,
    revision: str | None,
    trust_remote_code: bool,
    state: str,
) -> Model:
    asked = (name, dtype, device, device_map, revision, trust_remote_code, state)
    model = _kept.pop(asked, None)
    if model is None:
        model = load_model(
            name,
            dtype=dtype,
            device=device,
            device_map=device_map,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    _kept[asked] = model
    while len(_kept) > 1 and sum(map(_bytes, _kept.values())) > KEPT_BYTES:
        del _kept[next(iter(_kept))]
    return model


def _bytes(model: Model) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.bridge.original_model.parameters())


@dataclass(frozen=True, eq=False)
class Measurement(ABC):
    """A measurement that is made in pieces.

    Attributes:
        of: `(question, in_memory=, …)`: validates the options, and makes one.
        question: model, pairs, metric and ablation.
        pieces: where what is finished is kept.
    """

    of: ClassVar[Callable[..., "Measurement"]]
    question: Question
    pieces: Pieces

    @abstractmethod
    def fill(self, unit: Any) -> None:
        """Measures what is missing of the pieces of a unit of work, and keeps it."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A measurement in the form that is sent to workers.

    Attributes:
        kind: whose `of` is called; a class, which is sent by its name.
        model: how to get it.
        pairs, metric, ablation, batch_size: of the question.
        options: of the measurement, by name.
    """

    kind: type[Measurement]
    model: ModelSource
    pairs: PromptPairs
    metric: Metric
    ablation: Ablation
    batch_size: int
    options: Mapping[str, Any]

    @classmethod
    def of(cls, kind: type[Measurement], question: Question, **options: Any) -> "Asked":
        """With the batch size that the question has here.

        Raises:
            InputError: the model was given as an object; see `ModelSource.of`.
        """
        source = ModelSource.of(question.model)
        return cls(kind, source, question.pairs, question.metric, question.ablation, question.batch_size, options)

    def measurement(self) -> Measurement:
        """The measurement, in a worker."""
        question = Question.ask(self.model.load(), self.pairs, self.metric, self.ablation, self.batch_size)
        return self.kind.of(question, **self.options, in_memory=True)


def measure_pieces(
    workers: Workers,
    pieces: Pieces,
    asked: Asked,
    units: Mapping[Any, Sequence[str]],
    progress: Progress | None = None,
) -> None:
    """Lets workers measure what is missing, and keeps it.

    Args:
        workers: who measures.
        pieces: where pieces are kept.
        asked: the measurement.
        units: for each unit its pieces; a unit whose pieces are all there is not measured.
        progress: called with (pieces there, in all).
    """
    total = sum(map(len, units.values()))
    missing = [unit for unit, names in units.items() if any(pieces.get(name) is None for name in names)]
    done = total - sum(len(units[unit]) for unit in missing)
    for _, measured in workers.map(_measured, asked, missing):
        for name, piece in measured.items():
            pieces.put(name, piece)
        done += len(measured)
        if progress is not None:
            progress(done, total)


def _measured(asked: Asked, unit: Any) -> dict[str, Tensor]:
    """What a worker does: the pieces of one unit, by name."""
    measurement = asked.measurement()
    measurement.fill(unit)
    return measurement.pieces.kept
