"""Measurements divided among workers, whose pieces come back as if read from a store.

A method that can be divided cuts its work into named pieces (`circuits.measure.store`) and is a `Measurement`. Workers
rebuild it from `MeasurementRequest` and measure the missing pieces. The method then runs as usual, and every piece is there already.
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
    """How a worker loads a model: by name.

    Attributes:
        name, dtype, device, device_map, revision, trust_remote_code, ungrouped: arguments of `circuits.load_model`.
        weights_hash: the expected hash of the weights; None: any.
        state: the state of the model's files, if they may change while a worker lives.
    """

    name: str
    dtype: str | None = None
    device: str = "auto"
    device_map: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    weights_hash: str | None = None
    state: str = ""
    ungrouped: bool = False

    @classmethod
    def from_model(cls, model: Model) -> "ModelSource":
        """The source of a loaded model.

        Raises:
            InputError: the model was given as an object, or has hooks; a worker could not reproduce either.
        """
        if model.loaded_by is None:
            raise InputError(
                f"workers load a model by its name, but {model.name} is an object; save it to a directory and load it "
                "from there"
            )
        if model.architecture.inserted:
            raise InputError(
                "workers load a model by its name, and its dictionaries would be lost; compute in this process"
            )
        if hooks := hooks_of(model):
            raise InputError(
                f"workers load a model by its name, and the hooks on {model.name} ({hooks[0]}) would be lost; compute in this process"
            )
        dtype = str(model.dtype).removeprefix("torch.")
        asked = dict(model.loaded_by)
        if asked.get("device") == "auto" and asked.get("device_map") is None:
            asked["device"] = model.device.type  # a worker without a GPU would use its CPU and get other last bits
        return cls(dtype=dtype, weights_hash=model.weights_hash, revision=model.revision, **asked)

    def load(self) -> Model:
        """Loads the model. The process keeps the last one, and more of them while they are small (`KEPT_BYTES`).

        Raises:
            InputError: the model cannot be loaded, or its weights have another hash.
        """
        model = _loaded(
            self.name, self.dtype, self.device, self.device_map, self.revision, self.trust_remote_code, self.state,
            self.ungrouped,
        )  # fmt: skip
        if self.weights_hash is not None and model.weights_hash != self.weights_hash:
            raise InputError(f"{self.name} has other weights in this worker than in the process that started the work")
        return model


KEPT_BYTES = 2**31
"""Models stay loaded while they take at most this much memory together: a study of small models loads each once per
process. Of larger models only the last stays."""
_kept: dict[tuple[Any, ...], Model] = {}
"""Loaded models by the arguments of `load_model`; the most recently used is last."""


def _loaded(
    name: str,
    dtype: str | None,
    device: str,
    device_map: str | None,
    revision: str | None,
    trust_remote_code: bool,
    state: str,
    ungrouped: bool,
) -> Model:
    asked = (name, dtype, device, device_map, revision, trust_remote_code, state, ungrouped)
    model = _kept.pop(asked, None)
    if model is None:
        model = load_model(
            name,
            dtype=dtype,
            device=device,
            device_map=device_map,
            revision=revision,
            trust_remote_code=trust_remote_code,
            ungrouped=ungrouped,
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
        for_question: `(question, in_memory=, …)` -> a measurement; validates the options.
        question: model, pairs, metric and ablation.
        pieces: the finished pieces.
    """

    for_question: ClassVar[Callable[..., "Measurement"]]
    question: Question
    pieces: Pieces

    @abstractmethod
    def fill(self, unit: Any) -> None:
        """Measures and stores the missing pieces of a unit of work."""


@dataclass(frozen=True, eq=False)
class MeasurementRequest:
    """A measurement in the form that is sent to workers.

    Attributes:
        kind: the class whose `for_question` makes the measurement; it is sent by name.
        model: how to load the model.
        pairs, metric, ablation, batch_size: the question.
        options: the options of the measurement, by name.
    """

    kind: type[Measurement]
    model: ModelSource
    pairs: PromptPairs
    metric: Metric
    ablation: Ablation
    batch_size: int
    options: Mapping[str, Any]

    @classmethod
    def for_question(cls, kind: type[Measurement], question: Question, **options: Any) -> "MeasurementRequest":
        """Uses the batch size that the question has in this process.

        Raises:
            InputError: the model was given as an object; see `ModelSource.from_model`.
        """
        source = ModelSource.from_model(question.model)
        return cls(kind, source, question.pairs, question.metric, question.ablation, question.batch_size, options)

    def measurement(self) -> Measurement:
        """Makes the measurement in a worker."""
        question = Question.ask(self.model.load(), self.pairs, self.metric, self.ablation, self.batch_size)
        return self.kind.for_question(question, **self.options, in_memory=True)


def measure_pieces(
    workers: Workers,
    pieces: Pieces,
    request: MeasurementRequest,
    units: Mapping[Any, Sequence[str]],
    progress: Progress | None = None,
) -> None:
    """Lets workers measure the missing pieces, and stores them.

    Args:
        workers: where to measure.
        pieces: the store.
        request: the measurement.
        units: unit -> names of its pieces; a unit with all pieces in the store is skipped.
        progress: called with (pieces done, total).
    """
    total = sum(map(len, units.values()))
    missing = [unit for unit, names in units.items() if any(pieces.get(name) is None for name in names)]
    done = total - sum(len(units[unit]) for unit in missing)
    for _, measured in workers.map(_measured, request, missing):
        for name, piece in measured.items():
            pieces.put(name, piece)
        done += len(measured)
        if progress is not None:
            progress(done, total)


def _measured(request: MeasurementRequest, unit: Any) -> dict[str, Tensor]:
    """Measures one unit in a worker; returns its pieces by name."""
    measurement = request.measurement()
    measurement.fill(unit)
    return measurement.pieces.kept
