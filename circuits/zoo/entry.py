"""What the zoo knows of one model, and how its logits are checked.

A model that is converted here could come out wrong without an error: a head un-permuted twice, a tokenizer that splits
digits. So every entry carries a prompt, its token ids, and logits that were computed from the original once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.errors import ModelError

WHEEL_VARIABLE = "MECH_CIRCUITS_WHEEL"
"""The environment variable that names a wheel which is already here."""

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`, in bytes; `total` is 0 where it isn't known."""


def no_progress(stage: str, done: int, total: int) -> None:
    """The callback that shows nothing."""


class FetchError(ModelError):
    """A model's files cannot be had."""


@dataclass(frozen=True)
class Answer:
    """One next token and the logit it must have."""

    text: str
    token_id: int
    logit: float


@dataclass(frozen=True)
class Golden:
    """A prompt with known next-token logits.

    Attributes:
        prompt: the text, without the token put before it.
        token_ids: what the model is given: `first_token`, then the prompt's own tokens.
        answers: tokens and their logits in float32.
        tolerance: the largest absolute difference allowed, in logits.
    """

    prompt: str
    token_ids: tuple[int, ...]
    answers: tuple[Answer, ...]
    tolerance: float

    def check_tokens(self, name: str, encode: Callable[[str], Sequence[int]]) -> None:
        """Raise `ModelError` unless `encode(text)`, adding no special tokens, gives the known ids."""
        expected = [(self.prompt, self.token_ids[1:])] + [(answer.text, (answer.token_id,)) for answer in self.answers]
        for text, ids in expected:
            found = tuple(int(token) for token in encode(text))
            if found != ids:
                raise ModelError(f"{name}: its tokenizer turns {text!r} into {list(found)}, expected {list(ids)}")

    def check_logits(self, name: str, logits: Callable[[list[int]], Any]) -> None:
        """Raise `ModelError` unless `logits(token_ids)`, one number per vocabulary token, has the known values."""
        values = logits(list(self.token_ids))
        for answer in self.answers:
            found = float(values[answer.token_id])
            if not abs(found - answer.logit) <= self.tolerance:  # so that NaN fails too
                raise ModelError(
                    f"{name}: the logit of {answer.text!r} after {self.prompt!r} is {found:.3f}, expected "
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
        source: where the weights come from, for people.
        size: bytes that are downloaded, once.
        size_on_disk: bytes that it takes in the cache.
        directory: the name of its directory in the cache; it changes whenever the conversion does.
        files: what that directory must hold.
        provenance: facts written to `provenance.json`.
        golden: known logits.
        remedies: what to do where the weights cannot be fetched; ends a sentence.
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
