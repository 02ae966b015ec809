"""`train_dictionary`: trains TopK autoencoders and transcoders of several sites on one stream of text.

An example, not a product: it is meant for dictionaries that a small machine can make in an hour. The loss is that of
`train_coder`, the text that of `train_text`; quality is measured on other text by `train_quality`.

The buffer is filled, shuffled and used up before it is filled again, and a checkpoint is written only in between. So a checkpoint needs
no activations, and a resumed training computes what an uninterrupted one does, bit for bit (on the same machine and version of torch).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.load import load_dictionary
from circuits.dictionaries.train_activations import Pair, Recorder, filled_buffer
from circuits.dictionaries.train_coder import Coder
from circuits.dictionaries.train_files import (
    check_finish,
    check_out,
    claimed,
    delete_checkpoint,
    directories,
    read_checkpoint,
    write_checkpoint,
    write_dictionary,
    write_record,
)
from circuits.dictionaries.train_quality import loss_with, measured_quality, model_loss
from circuits.dictionaries.train_record import quality_rows
from circuits.dictionaries.train_spec import SAMPLED, TrainingSpec, parse_count
from circuits.dictionaries.train_text import Text, generator, text_source
from circuits.engine.hooks import inference_state
from circuits.errors import InputError, refusing
from circuits.files.checksums import file_sum
from circuits.files.durable import make_directory
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import StageReport
from circuits.shown import Shown

CHECKPOINT_SECONDS = 60.0
"""Time between checkpoints, at least."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class DictionaryTraining(Shown):
    """Trained dictionaries.

    Attributes:
        out: the directory with their files.
        dictionaries: the dictionaries, in the order of the sites.
        record: the content of `training.json`: settings, progress, and the quality of each dictionary.
    """

    out: Path
    dictionaries: tuple[Dictionary, ...]
    record: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The record, as JSON values."""
        return dict(self.record)

    def rows(self) -> list[dict[str, Any]]:
        """The quality of each dictionary, one a row."""
        return quality_rows(self.record)

    def __repr__(self) -> str:
        parts = [f"{one['site']}: explained variance {one['explained variance']:.2f}" for one in self.rows()]
        return f"DictionaryTraining({str(self.out)!r}, {', '.join(parts)})"


@on_model
def train_dictionary(
    model: Model,
    sites: str | Sequence[str],
    out: str | Path,
    *,
    features: int = 4096,
    k: int = 32,
    tokens: int | str = 1_000_000,
    text: str | Path = SAMPLED,
    resume: bool = False,
    finish: bool = False,
    checkpoint_seconds: float | None = None,
    progress: StageReport | bool | None = None,
    **options: Any,
) -> DictionaryTraining:
    """Trains a TopK dictionary for each site, all on the same text, and measures their quality on other text.

    Args:
        model: a loaded model.
        sites: where the dictionaries read and write: `transcoder.10` (an MLP's input to its write), or for an autoencoder `mlp_out.10`,
            `attn_out.10`, `hook_z.10`, `resid_pre.10`, `resid_mid.10` or `resid_post.10`.
        out: a new directory. Each dictionary gets a directory in it, named by its site, that `circuits.load_dictionary` reads.
        features: features of each dictionary.
        k: features that are active on a token.
        tokens: tokens of text; `500k` and `1M` are understood.
        text: `sampled`: the model samples it; or a `.txt` or `.jsonl` file.
        resume: continue an interrupted training in `out`; all other arguments must be the same. A finished one is returned as it is.
        finish: with `resume`, take the dictionaries of the last checkpoint as they are, without further steps. `training.json` then has
            fewer `steps` than `planned_steps`.
        checkpoint_seconds: time between two checkpoints, at least; None: a minute.
        progress: called with the steps done, their number, and a note.
        **options: other settings of `circuits.dictionaries.train_spec.TrainingSpec`: skip, context, batch_size, buffer, step, passes,
            learning_rate, dead_after, held_out, seed, field.

    Returns:
        The dictionaries, their files and their quality.

    Raises:
        InputError: an unknown site or option, a directory that is not empty, or a checkpoint of another model or of other settings.
    """
    known = TrainingSpec.__dataclass_fields__.keys() - {"sites", "features", "k", "tokens", "text"}
    if unknown := options.keys() - known:
        raise InputError(f"unknown option {', '.join(sorted(unknown))}; options: {', '.join(sorted(known))}")
    spec = TrainingSpec.for_sites(sites, features=features, k=k, tokens=parse_count(tokens), text=str(text), **options)
    out = Path(out)
    if finish:
        check_finish(out, resume)
    with claimed(out):
        finished = check_out(out, spec, resume)
        if finished is not None:
            return _read(out, finished)
        with inference_state(model.bridge):
            report = progress if callable(progress) else lambda done, total, note="": None
            training = _Training.begin(model, spec, out, text_source(model, spec), resume)
            if not finish:
                training.run(CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds, report)
            return training.finish(report)


def _read(out: Path, record: Mapping[str, Any]) -> DictionaryTraining:
    sites = [one["site"] for one in record["dictionaries"]]
    found = tuple(load_dictionary(path, site) for site, path in directories(out, sites).items())
    return DictionaryTraining(out, found, record)


class _Training:
    """A training in progress.

    Attributes:
        step, buffers: gradient steps done, and buffers used.
        seconds: processor time that it took before this process began.
    """

    def __init__(self, model: Model, spec: TrainingSpec, out: Path, text: Text, record: dict[str, Any]) -> None:
        self.model, self.spec, self.out, self.text, self.record = model, spec, out, text, record
        self.recorders = [Recorder.at(model, site) for site in spec.parsed_sites]
        self.coders: list[Coder] = []
        self.step = self.buffers = 0
        self.seconds, self.begun = 0.0, time.process_time()

    @classmethod
    def begin(cls, model: Model, spec: TrainingSpec, out: Path, text: Text, resume: bool) -> "_Training":
        """A new training, or one from its last checkpoint."""
        record = {"finished": False, "settings": spec.to_dict(), "model": model.name, "revision": model.revision}
        record |= {"weights_sha256": model.weights_hash, "torch": torch.__version__}
        record |= {} if spec.text == SAMPLED else {"text_sha256": file_sum(Path(spec.text))}
        training = cls(model, spec, out, text, record)
        state = read_checkpoint(out) if resume else None
        if state is None:
            with refusing(f"write to {out}"):
                make_directory(out)
            write_record(out, record)
        else:
            training.restore(*state)
        return training

    def restore(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Takes over a checkpoint; InputError if it is of another model or text."""
        for name in ("weights_sha256", "text_sha256"):
            if progress.get(name) != self.record.get(name):
                what = "model" if name == "weights_sha256" else "text"
                raise InputError(
                    f"the checkpoint in {self.out} is of a training with another {what}; choose another directory"
                )
        try:
            self.step, self.buffers, self.seconds = (
                int(progress["step"]),
                int(progress["buffers"]),
                float(progress["seconds"]),
            )
            for recorder in self.recorders:
                own = f"{recorder.site.name}/"
                mine = {name.removeprefix(own): tensor for name, tensor in tensors.items() if name.startswith(own)}
                self.coders.append(Coder.restored(recorder.site, self.spec.k, mine, recorder.points.device))
        except (KeyError, ValueError, TypeError) as problem:
            raise InputError(
                f"the checkpoint in {self.out} is not complete ({problem}); start again in another directory"
            ) from None

    def run(self, checkpoint_seconds: float, report: StageReport) -> None:
        """All steps that are left."""
        last = time.monotonic()
        while self.step < self.spec.steps:
            report(self.step, self.spec.steps, "sampling text" if self.spec.text == SAMPLED else "reading text")
            pairs = filled_buffer(self.model, self.text, self.recorders, self.spec, self.buffers)
            if not len(pairs[0][0]):
                raise InputError(f"no token of the text {self.spec.text} can be used: all are BOS tokens")
            if not self.coders:
                self._start(pairs)
            self._use(pairs, report)
            self.buffers += 1
            if time.monotonic() - last >= checkpoint_seconds or self.step >= self.spec.steps:
                self._save()
                last = time.monotonic()

    def _start(self, pairs: Sequence[Pair]) -> None:
        for number, (recorder, (x, y)) in enumerate(zip(self.recorders, pairs, strict=True)):
            seed = generator(self.spec.seed, "directions", number).initial_seed()
            skip = self.spec.has_skip(recorder.site)
            self.coders.append(Coder.start(recorder.site, self.spec.features, self.spec.k, skip, x, y, seed))

    def _use(self, pairs: Sequence[Pair], report: StageReport) -> None:
        """The steps on one buffer."""
        n, size = len(pairs[0][0]), min(self.spec.step, len(pairs[0][0]))
        for repetition in range(self.spec.passes):
            order = torch.randperm(n, generator=generator(self.spec.seed, "pass", self.buffers, repetition))
            for index in order[: n // size * size].split(size):
                if self.step >= self.spec.steps:
                    return
                rate = self.spec.rate(self.step)
                losses = [
                    coder.step(x[index.to(x.device)], y[index.to(y.device)], rate, self.spec.tokens_until_dead)
                    for coder, (x, y) in zip(self.coders, pairs, strict=True)
                ]
                self.step += 1
                report(self.step, self.spec.steps, f"unexplained {', '.join(f'{loss:.2f}' for loss in losses)}")

    def _save(self) -> None:
        tensors = {f"{one.site.name}/{name}": tensor for one in self.coders for name, tensor in one.state().items()}
        given = {name: self.record[name] for name in ("weights_sha256", "text_sha256") if name in self.record}
        progress = {"step": self.step, "buffers": self.buffers, "seconds": self._seconds(), **given}
        write_checkpoint(self.out, tensors, progress)

    def _seconds(self) -> float:
        return round(self.seconds + time.process_time() - self.begun, 1)

    def finish(self, report: StageReport) -> DictionaryTraining:
        """Writes the dictionaries and their quality."""
        trained = self._seconds()
        held_out, size = self.text.held_out(), self.spec.batch_size
        own_loss, entries, finished = model_loss(self.model, held_out, size), [], []
        for number, coder in enumerate(self.coders):
            report(number, len(self.coders), "measuring quality")
            dead = int((coder.silent >= self.spec.tokens_until_dead).sum())
            dictionary = coder.finished(self.model.name)
            quality = measured_quality(self.model, dictionary, held_out, size, dead, own_loss)
            finished.append(dictionary)
            entries.append({
                "site": self.spec.sites[number], "features": self.spec.features, "k": self.spec.k, "skip": dictionary.skip is not None,
                "scale_in": coder.scale_in, "scale_out": coder.scale_out, "quality": quality.to_dict(),
            })  # fmt: skip
            write_dictionary(dictionary, self.out / self.spec.sites[number])
        self.record |= {
            "finished": True, "steps": self.step, "planned_steps": self.spec.steps,
            "tokens": self.step // self.spec.passes * self.spec.step, "tokens_presented": self.step * self.spec.step, "seconds_training": trained, "seconds": self._seconds(),
            "dictionaries": entries, "loss_all_together": loss_with(self.model, finished, held_out, size),
        }  # fmt: skip
        write_record(self.out, self.record)
        delete_checkpoint(self.out)
        return DictionaryTraining(self.out, tuple(finished), self.record)
