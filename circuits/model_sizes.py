"""What sizes a model's configuration may state, checked before anything of these sizes is built.

Two checks, each without a list of architectures. Numbers that count something (layers, heads, widths, experts, labels, tokens of a
vocabulary, in nested parts too) are bounded by what their names say, since transformers makes lists of so many entries while it
reads them. Then a model is built without weights, part by part, and each part is counted: one that outgrows what the weight files hold
is refused at that part.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.modules import module as registration

from circuits.errors import ModelError
from circuits.files.untrusted import shown
from circuits.model_files import (
    CONFIG,
    TOKENIZER_CONFIG,
    Weights,
    check_directory,
    check_member,
    find_directory,
    read_small,
    weights_in,
)

MOST_LAYERS, LARGEST_SIZE, LARGEST_VOCABULARY, LONGEST_CONTEXT, MOST_LABELS = 1000, 2**20, 2**26, 2**26, 2**16
"""What a configuration may state: about eight times the largest in use (three times, of labels)."""
LAYERS = re.compile(r"layers?$|layers?_|^depth$|_depth$|blocks?$|cycles$|stages$|attention_types")
VOCABULARY = re.compile(r"vocab")
CONTEXT = re.compile(
    r"^(max_)?seq(uence)?_len(gth)?$|^max_position_embeddings$|^n_positions$|^n_ctx$|^(max_)?context_length$"
)
LABELS = re.compile(r"^num_labels$|^n_labels$")
COUNTS = re.compile(
    r"head|expert|group|label|hidden|embd|embed|dim|size|width|inner|intermediate|d_model|d_ff|dff|ffn|channel|rank|classes"
    r"|codebook|bucket|extra_ids|layer|^n_|^num_"
)
NO_COUNTS = re.compile(
    r"position|length|theta|token|window|ctx|context|max_|chunk|offset|image|param|(?<!extra)_ids?$|_id_|index|seed|seq|step|train|sample"
)
NO_LAYERS = re.compile(r"size|dim|vocab|norm|rank|width|channel")
"""Names of numbers: of layers, of a vocabulary's tokens, of other counts; and what these names hold where they do not count."""
MOST_PARTS = 2**17
"""Modules and parameters of a model whose files are not there."""
PARTS_PER_TENSOR, SPARE_PARTS = 8, 500
"""A tensor in a file may become three parameters (fused queries, keys and values), each in a module of some depth."""
SPARE_PARAMETERS, SPARE_SHARE = 2**22, 0.25
"""Beyond what the files hold, for tables that are computed rather than stored."""
LARGEST_BUFFERS = 2**30
"""Bytes of tables that are no weights, such as masks, beyond what the weights take."""
PACKED = 16
"""Weights in one number of a file of a quantised model, at most: two bits each in 32."""


def check_config(config: dict[str, Any], name: str) -> None:
    """Refuses counts that no model has.

    Args:
        config: as `config.json` (or `tokenizer_config.json`) states it.
        name: of the file, for errors.

    Raises:
        ModelError: a number of layers above 1,000, of labels above 65,536, of a vocabulary's or a context's tokens above 67 million,
            or another count above a million.
    """
    for key, value in _numbers(config):
        largest = _largest(key.rpartition(".")[2].lower())
        if largest is not None and value > largest:
            raise ModelError(f"{name}: {key} is {shown(value)}; a model's {key} is at most {largest:,}")


def _numbers(config: Any) -> Iterator[tuple[str, float]]:
    """Numbers with their dotted names, those in lists by the list's name."""
    around = [("", config)]
    while around:
        key, value = around.pop()
        if isinstance(value, dict):
            around += [(f"{key}.{name}" if key else name, entry) for name, entry in value.items()]
        elif isinstance(value, list):
            around += [(key, entry) for entry in value]
        elif type(value) in (int, float):
            yield key, value


def _largest(name: str) -> int | None:
    if LAYERS.search(name) and not NO_LAYERS.search(name) and not NO_COUNTS.search(name):
        return MOST_LAYERS
    if VOCABULARY.search(name):
        return LARGEST_VOCABULARY
    if CONTEXT.search(name):
        return LONGEST_CONTEXT
    if LABELS.search(name):
        return MOST_LABELS
    return LARGEST_SIZE if COUNTS.search(name) and not NO_COUNTS.search(name) else None


@dataclass(frozen=True)
class Budget:
    """What a model that is built may consist of.

    Attributes:
        name: the model's, for errors.
        parts: modules and parameters.
        parameters: numbers in parameters; None: any.
        buffers: bytes in other tensors.
        held: what to say that the files hold.
    """

    name: str
    parts: int = MOST_PARTS
    parameters: int | None = None
    buffers: int = LARGEST_BUFFERS
    held: str = ""

    @classmethod
    def of(cls, name: str, config: dict[str, Any], weights: Weights | None) -> "Budget":
        """What a model may consist of whose parameters come from these files."""
        if weights is None:
            return cls(name)
        held = weights.parameters * (PACKED if config.get("quantization_config") else 1)
        parts = min(MOST_PARTS, PARTS_PER_TENSOR * weights.tensors + SPARE_PARTS)
        said = f"the weight files hold at most {held:,} numbers in {weights.tensors:,} tensors"
        # A table of words that the model's input and output share is there twice before it is shared.
        return cls(name, parts, int(held * (2 + SPARE_SHARE)) + SPARE_PARAMETERS, LARGEST_BUFFERS + 8 * held, said)

    def refuse(self, what: str) -> None:
        raise ModelError(
            f"{self.name}: {what} cannot come from its files"
            f"{f' ({self.held})' if self.held else ''}; is config.json this model's, and the download complete?"
        )


def checked_files(path: str, name: str, revision: str | None) -> Budget:
    """Checks the files of a model that is about to be loaded.

    Args:
        path: a directory or a Hugging Face id.
        name: what errors call the model.
        revision: of a Hugging Face id.

    Returns:
        What the model may consist of, for `built_within`.

    Raises:
        ModelError: see `model_files.check_directory` and `check_config`.
        OSError: there is no such model.
    """
    directory = find_directory(path, revision)
    check_directory(directory)
    config = checked_config(directory)
    check_config(read_small(directory / TOKENIZER_CONFIG), str(directory / TOKENIZER_CONFIG))
    return Budget.of(name, config, weights_in(directory, config))


def checked_config(directory: Path) -> dict[str, Any]:
    """What `config.json` states; raises as `checked_files`."""
    path = directory / CONFIG
    if os.path.lexists(path):
        check_member(directory, path)
    config = read_small(path)
    check_config(config, str(path))
    return config


@contextmanager
def built_within(budget: Budget) -> Iterator[None]:
    """Counts what is built without weights in this thread, and ends it where it outgrows the budget.

    Raises:
        ModelError: it does.
    """
    thread, seen = threading.get_ident(), {}
    parts = parameters = buffers = 0

    def count(tensor: Any) -> None:
        nonlocal parts, parameters
        if threading.get_ident() != thread or (isinstance(tensor, Tensor) and tensor.device.type != "meta"):
            return
        if tensor is None or id(tensor) in seen:
            return
        seen[id(tensor)] = tensor  # kept, so that no other takes its number
        parts += 1
        parameters += tensor.numel() if isinstance(tensor, Tensor) else 0
        if parts > budget.parts:
            budget.refuse(f"a model of over {budget.parts:,} modules and parameters, which config.json describes,")
        if budget.parameters is not None and parameters > budget.parameters:
            budget.refuse(
                f"the parameters that config.json describes ({parameters:,} up to the first that is too many)"
            )

    def count_buffer(tensor: Any) -> None:
        nonlocal buffers
        if threading.get_ident() != thread or not isinstance(tensor, Tensor) or tensor.device.type != "meta":
            return
        buffers += tensor.numel() * tensor.itemsize
        if buffers > budget.buffers:
            budget.refuse(f"tables of over {budget.buffers:,} bytes, which config.json describes,")

    hooks = [
        registration.register_module_module_registration_hook(lambda _, __, part: count(part)),
        registration.register_module_parameter_registration_hook(lambda _, __, part: count(part)),
        registration.register_module_buffer_registration_hook(lambda _, __, tensor: count_buffer(tensor)),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
