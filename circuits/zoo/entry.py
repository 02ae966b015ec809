"""The entry of a model in the zoo, and the check of its logits.

A conversion could be wrong without an error: a head permuted twice, a tokenizer that splits digits. So every entry has a prompt,
its token ids, and logits that were computed once from the original.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.errors import ModelError

WHEEL_VARIABLE = "MECH_CIRCUITS_WHEEL"
"""The environment variable with the path of a downloaded wheel."""

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`, in bytes; `total` is 0 if unknown."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A callback that shows nothing."""


class FetchError(ModelError):
    """The files of a model cannot be downloaded."""


@dataclass(frozen=True)
class Answer:
    """A next token and its known logit."""

    text: str
    token_id: int
    logit: float


@dataclass(frozen=True)
class Golden:
    """A prompt with known next-token logits.

    Attributes:
        prompt: the text, without the first token.
        token_ids: the model's input: the first token, then the tokens of the prompt.
        answers: tokens and their logits in float32.
        tolerance: the largest absolute difference allowed, in logits.
    """

    prompt: str
    token_ids: tuple[int, ...]
    answers: tuple[Answer, ...]
    tolerance: float

    def check_tokens(self, name: str, encode: Callable[[str], Sequence[int]]) -> None:
        """Raises `ModelError` unless `encode(text)`, without special tokens, gives the known ids."""
        expected = [(self.prompt, self.token_ids[1:])] + [(answer.text, (answer.token_id,)) for answer in self.answers]
        for text, ids in expected:
            tokens = [int(token) for token in encode(text)]
            if tokens != list(ids):
                raise ModelError(f"{name}: its tokenizer turns {text!r} into {tokens}, expected {list(ids)}")

    def check_logits(self, name: str, logits: Callable[[list[int]], Any]) -> None:
        """Raises `ModelError` unless `logits(token_ids)`, [d_vocab], has the known values."""
        values = logits(list(self.token_ids))
        for answer in self.answers:
            logit = float(values[answer.token_id])
            if not abs(logit - answer.logit) <= self.tolerance:  # also true for NaN
                raise ModelError(
                    f"{name}: the logit of {answer.text!r} after {self.prompt!r} is {logit:.3f}, expected "
                    f"{answer.logit:.2f} ± {self.tolerance}; the weights, their conversion or the dtype (float32 was "
                    f"expected) are not those the known value was computed with"
                )


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel.

    Attributes:
        package: the distribution's name.
        version: its version.
        sha256: of the wheel.
        nbytes: of the wheel.
        member: the file's path inside it.
        member_sha256: of that file.
        member_nbytes: of that file, unpacked.
    """

    package: str
    version: str
    sha256: str
    nbytes: int
    member: str
    member_sha256: str
    member_nbytes: int

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class ZooEntry:
    """A model that can be loaded by a short name.

    Attributes:
        name: the short name.
        description: one line.
        licence: of the weights, as an SPDX identifier.
        source: the origin of the weights, as text.
        size: bytes of the download.
        size_on_disk: bytes in the cache.
        directory: the name of its directory in the cache; it changes with the conversion.
        files: the files in that directory.
        provenance: entries of `provenance.json`.
        golden: known logits.
        remedies: what to do if the weights cannot be downloaded; the end of a sentence.
        build: `build(scratch, output, progress)` fetches into `scratch` and writes `files` to `output`.
    """

    name: str
    description: str
    licence: str
    source: str
    size: int
    size_on_disk: int
    directory: str
    files: tuple[str, ...]
    provenance: dict[str, Any]
    golden: Golden
    remedies: str
    build: Callable[[Path, Path, Progress], None]
