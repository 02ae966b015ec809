"""The text that dictionaries are trained on, in contexts of one length: sampled by the model itself, or from a file.

Every context begins with the BOS token (a token drawn at random, if the model has none). Contexts are numbered, and a context depends
on the seed and its number alone, so that a resumed training sees the same text.

- **Sampled**: a batch of contexts is sampled at temperature 1, with cached keys and values. The activations are recorded while it is
  sampled, so a token costs one forward pass of the model.
- **File**: documents (a `.txt` file is one; of a `.jsonl` file, each line) are tokenized and cut into contexts, one after another, with
  BOS between documents. Every 20th context is held out. When the file ends, it starts again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.dictionaries.train_spec import SAMPLED, TrainingSpec
from circuits.engine.hooks import NO_LOGITS, Hook, TokenBatch, hooked, run
from circuits.errors import InputError, refusing
from circuits.files.untrusted import open_regular, parse_json, shown
from circuits.model import Model

EVERY = 20
"""One context of so many of a file is held out."""
PIECE = 2**16
"""Characters of a `.txt` file that are tokenized at a time."""

Batch = Int[Tensor, "context pos"]


@runtime_checkable
class Text(Protocol):
    """A source of text."""

    def batch(self, number: int, hooks: Sequence[Hook]) -> Batch:
        """The batch of that number; `hooks` see the model's activations on it, in one pass or several."""
        ...

    def held_out(self) -> Batch:
        """Contexts that are not trained on."""
        ...


def text_source(model: Model, spec: TrainingSpec) -> Text:
    """The source that the settings name.

    Raises:
        InputError: a context longer than the model's, or a file without enough text.
    """
    if spec.context > model.n_ctx:
        raise InputError(
            f"contexts of {spec.context} tokens are longer than those of {model.name}, which has at most {model.n_ctx}"
        )
    return SampledText(model, spec) if spec.text == SAMPLED else FileText(model, spec)


def first_token(model: Model) -> int | None:
    """The BOS token; None: the model has none."""
    own = getattr(model.tokenizer, "bos_token_id", None)
    stated = getattr(getattr(model.bridge.original_model, "config", None), "bos_token_id", None)
    return own if own is not None else stated


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Random numbers for one purpose."""
    digest = hashlib.sha256(" ".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class SampledText:
    """Text that the model samples; see the module docstring."""

    def __init__(self, model: Model, spec: TrainingSpec) -> None:
        self.model, self.spec, self.first = model, spec, first_token(model)

    def batch(self, number: int, hooks: Sequence[Hook]) -> Batch:
        draw = generator(self.spec.seed, "text", number)
        return self._sampled(self.spec.batch_size, draw, hooks)

    def held_out(self) -> Batch:
        draw, left, parts = generator(self.spec.seed, "held out"), self.spec.held_out, []
        while left > 0:
            parts.append(self._sampled(min(left, self.spec.batch_size), draw, ()))
            left -= len(parts[-1])
        return torch.cat(parts)

    def _sampled(self, n: int, draw: torch.Generator, hooks: Sequence[Hook]) -> Batch:
        start = (
            torch.randint(self.model.d_vocab, (n, 1), generator=draw)
            if self.first is None
            else torch.full((n, 1), self.first)
        )
        if not self.model.report.prefix_exact:
            return self._without_cache(start, draw, hooks)
        tokens, cache = [start.to(self.model.device)], None
        with hooked(list(hooks)):
            while True:
                logits, cache = self._next(tokens[-1], cache)
                if len(tokens) == self.spec.context:
                    return torch.cat(tokens, 1)
                tokens.append(_drawn(logits, draw).to(self.model.device))

    def _next(self, token: Int[Tensor, "context 1"], cache: object) -> tuple[Float[Tensor, "context vocab"], object]:
        """The logits after one more token; the cache is extended in place."""
        bridge = self.model.bridge
        if cache is None:
            logits, cache = bridge(token, return_type="logits_and_cache", use_cache=True)
        else:
            logits = bridge(token, return_type="logits", past_key_values=cache, use_cache=True)
        return logits[:, -1], cache

    def _without_cache(self, start: Int[Tensor, "context 1"], draw: torch.Generator, hooks: Sequence[Hook]) -> Batch:
        """For models whose cache is not exact: every token is a pass over the whole context."""
        tokens = start.to(self.model.device)
        while tokens.shape[1] < self.spec.context:
            last = torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
            logits = run(self.model.architecture, TokenBatch(tokens, last))
            tokens = torch.cat([tokens, _drawn(logits, draw).to(tokens.device)], 1)
        seen(self.model, tokens, hooks)
        return tokens


def seen(model: Model, tokens: Batch, hooks: Sequence[Hook]) -> None:
    """A pass over the tokens for what its hooks record."""
    run(
        model.architecture,
        TokenBatch(tokens, torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)),
        hooks,
        NO_LOGITS,
    )


def _drawn(logits: Float[Tensor, "context vocab"], draw: torch.Generator) -> Int[Tensor, "context 1"]:
    return torch.multinomial(logits.to("cpu", torch.float32).softmax(1), 1, generator=draw)


class FileText:
    """Text of a file; see the module docstring."""

    def __init__(self, model: Model, spec: TrainingSpec) -> None:
        if model.tokenizer is None:
            raise InputError(f"{model.name} has no tokenizer, so it cannot read {spec.text}; use text {SAMPLED!r}")
        self.model, self.spec, self.first = model, spec, first_token(model)
        self.held = [context for context in self._first_held()]
        self._stream, self._next = self._training(), 0
        if not self.held:
            length, needed = spec.context, EVERY * (spec.context - 1)
            raise InputError(f"{spec.text} has fewer than {needed} tokens, too few for {EVERY} contexts of {length}")

    def batch(self, number: int, hooks: Sequence[Hook]) -> Batch:
        if number < self._next:
            self._stream, self._next = self._training(), 0
        while True:
            rows = [next(self._stream) for _ in range(self.spec.batch_size)]
            self._next += 1
            if self._next > number:
                tokens = torch.tensor(rows, device=self.model.device)
                seen(self.model, tokens, hooks)
                return tokens

    def held_out(self) -> Batch:
        return torch.tensor(self.held, device=self.model.device)

    def _first_held(self) -> Iterator[list[int]]:
        wanted = self.spec.held_out
        for number, context in enumerate(self._contexts()):
            if number % EVERY == EVERY - 1:
                yield context
                wanted -= 1
                if wanted == 0:
                    return

    def _training(self) -> Iterator[list[int]]:
        while True:
            for number, context in enumerate(self._contexts()):
                if number % EVERY != EVERY - 1:
                    yield context

    def _contexts(self) -> Iterator[list[int]]:
        """The file's contexts, once; what is left at its end is dropped."""
        begins = [] if self.first is None else [self.first]
        room, waiting = self.spec.context - len(begins), []
        for document in documents(Path(self.spec.text), self.spec.field):
            for number, piece in enumerate(document):
                ids = list(self.model.tokenizer(piece, add_special_tokens=False)["input_ids"])
                waiting += [*begins, *ids] if number == 0 and waiting else ids
                while len(waiting) >= room:
                    yield [*begins, *waiting[:room]]
                    waiting = waiting[room:]


def documents(path: Path, field: str) -> Iterator[Iterator[str]]:
    """The documents of a text file, each in pieces; the file is read a piece at a time.

    Raises:
        InputError: a line of a `.jsonl` file has no such text, or the file is not UTF-8.
    """
    if path.suffix != ".jsonl":
        yield _pieces(path)
        return
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        entry = parse_json(line)
        text = entry.get(field) if isinstance(entry, dict) else None
        if not isinstance(text, str):
            raise InputError(f"{path}, line {number}: expected an object with a text in {field!r}, got {shown(entry)}")
        yield iter([text])


def _pieces(path: Path) -> Iterator[str]:
    """Whole lines, about `PIECE` characters at a time."""
    waiting: list[str] = []
    size = 0
    for line in _lines(path):
        waiting.append(line)
        size += len(line)
        if size >= PIECE:
            yield "".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield "".join(waiting)


def _lines(path: Path) -> Iterator[str]:
    with refusing(f"read {path}"), open_regular(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise InputError(f"{path}, line {number}: it is not UTF-8; save the file as UTF-8") from None
