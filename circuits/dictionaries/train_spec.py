"""What a training of dictionaries is asked to do, checked before any model is loaded."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from circuits.dictionaries.site import DictionarySite, parse_site
from circuits.errors import InputError
from circuits.files.untrusted import shown

SAMPLED = "sampled"
TEXT_SUFFIXES = (".txt", ".jsonl")
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmM]?)")
_FACTORS = {"": 1, "k": 10**3, "m": 10**6}


def parse_count(text: str | int) -> int:
    """A number of tokens, such as `500_000`, `500k` or `1.5M`.

    Raises:
        InputError: it is none.

    >>> parse_count("500k"), parse_count("1.5M"), parse_count("1_000")
    (500000, 1500000, 1000)
    """
    match = _COUNT.fullmatch(str(text).replace("_", ""))
    number = float(match[1]) * _FACTORS[match[2].lower()] if match else 0.0
    if not 1 <= number <= 1e12:
        raise InputError(f"{shown(text)} is not a number of tokens; expected one such as 500000, 500k or 1.5M")
    return round(number)


def short_name(site: DictionarySite) -> str:
    """`transcoder.3` or `mlp_out.3`: how users name a site, and the name of its directory."""
    return f"transcoder.{site.layer}" if site.is_transcoder else site.name


def _trainable(site: DictionarySite) -> DictionarySite:
    if site.is_transcoder and site.reads != "mlp_in":
        raise InputError(
            f"transcoders that read {site.reads} are not trained here; use transcoder.{site.layer}, which reads mlp_in"
        )
    return site


@dataclass(frozen=True)
class TrainingSpec:
    """The settings of a training; with the model's weights they determine its result.

    Attributes:
        sites: where the dictionaries read and write, by their canonical names; all are trained on the same text.
        features: features of each dictionary.
        k: features that are active on a token.
        tokens: tokens of text, without the first one of each context.
        text: `sampled`: the model samples it; else the path of a `.txt` or `.jsonl` file.
        field: the field of a `.jsonl` file's objects that has the text.
        skip: give transcoders a skip.
        context: tokens of a context, including the first.
        batch_size: contexts per forward pass.
        buffer: tokens whose activations are held, shuffled, and then trained on; at least those of one forward pass.
        step: tokens of a gradient step.
        passes: how often the activations of a full buffer are used.
        learning_rate: the largest; it rises over the first 5% of the steps and falls to 0 over the last 20%.
        dead_after: a feature is dead after so many tokens without activity, counted with repetitions. None: a tenth of all.
        held_out: contexts that quality is measured on.
        seed: random seed.
    """

    sites: tuple[str, ...]
    features: int = 4096
    k: int = 32
    tokens: int = 1_000_000
    text: str = SAMPLED
    field: str = "text"
    skip: bool = False
    context: int = 128
    batch_size: int = 64
    buffer: int = 16_384
    step: int = 1024
    passes: int = 1
    learning_rate: float = 1e-3
    dead_after: int | None = None
    held_out: int = 64
    seed: int = 0

    @classmethod
    def for_sites(cls, sites: str | Sequence[str], **options: Any) -> "TrainingSpec":
        """The settings, checked.

        Raises:
            InputError: an unknown site or a value out of its range.
        """
        names = [sites] if isinstance(sites, str) else list(sites)
        if not names:
            raise InputError("no site is given; name at least one, such as transcoder.10 or mlp_out.10")
        parsed = [_trainable(parse_site(name)) for name in names]
        places = [site.place for site in parsed]
        doubled = [site for site in parsed if places.count(site.place) > 1]
        if doubled:
            raise InputError(f"{' and '.join(map(str, doubled))} are at one place; give one dictionary for each place")
        spec = cls(tuple(map(short_name, parsed)), **options)
        spec._check()
        return spec

    @property
    def parsed_sites(self) -> tuple[DictionarySite, ...]:
        """The sites."""
        return tuple(map(parse_site, self.sites))

    @property
    def steps(self) -> int:
        """Gradient steps in all."""
        return max(self.tokens // self.step, 1) * self.passes

    @property
    def tokens_until_dead(self) -> int:
        """`dead_after`, or its default."""
        return self.dead_after or max(self.steps * self.step // 10, self.step)

    @property
    def n_batches(self) -> int:
        """Forward passes that fill the buffer: as many as fit, at least one."""
        return max(self.buffer // (self.batch_size * self.context), 1)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm, cool = max(self.steps // 20, 1), max(self.steps // 5, 1)
        return self.learning_rate * min(1.0, (step + 1) / warm, (self.steps - step) / cool)

    def has_skip(self, site: DictionarySite) -> bool:
        """Whether that dictionary gets a skip."""
        return self.skip and site.is_transcoder

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {**asdict(self), "sites": list(self.sites)}

    def difference(self, other: dict[str, Any]) -> str | None:
        """The first setting in which a recorded training differs, as text."""
        for one in fields(self):
            mine, theirs = self.to_dict()[one.name], other.get(one.name)
            if mine != theirs:
                return f"{one.name.replace('_', '-')} {shown(theirs)} instead of {shown(mine)}"
        return None

    def _check(self) -> None:
        whole = {
            "features": 1, "k": 1, "tokens": 1, "context": 2, "batch_size": 1, "buffer": 1, "step": 1, "passes": 1, "held_out": 1,
        }  # fmt: skip
        for name, least in whole.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, got {shown(value)}")
        if self.dead_after is not None and (type(self.dead_after) is not int or self.dead_after < 1):
            raise InputError(f"dead_after must be a whole number of at least 1, got {shown(self.dead_after)}")
        if self.features < self.k:
            raise InputError(
                f"k is {self.k}, and there are only {self.features} features; give more features or a smaller k"
            )
        if self.tokens < self.step:
            raise InputError(f"{self.tokens} tokens are less than one gradient step of {self.step}; give more tokens")
        if self.buffer < self.step:
            raise InputError(
                f"the buffer of {self.buffer} tokens is smaller than a gradient step of {self.step} tokens"
            )
        if not (isinstance(self.learning_rate, float) and 0 < self.learning_rate < 1):
            raise InputError(f"the learning rate must be between 0 and 1, got {shown(self.learning_rate)}")
        if self.skip and not any(site.is_transcoder for site in self.parsed_sites):
            raise InputError(
                "only transcoders have a skip, and no site is one; leave skip out, or use a site such as transcoder.10"
            )
        self._check_text()

    def _check_text(self) -> None:
        if self.text == SAMPLED:
            return
        if Path(self.text).suffix not in TEXT_SUFFIXES:
            raise InputError(
                f"the text {shown(self.text)} is neither {SAMPLED!r} nor a file whose name ends in {' or '.join(TEXT_SUFFIXES)}"
            )
        if not Path(self.text).is_file():
            raise InputError(f"there is no text file {self.text}")
