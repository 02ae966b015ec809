"""Limits of the sizes in a model's configuration, checked before anything of these sizes is built.

There are two checks, neither with a list of architectures. Counts (layers, heads, widths, experts, labels, tokens of the
vocabulary, also in nested parts) are recognised by name and limited, since transformers makes lists of that length while it
reads them. Then a model is built without weights, and its parts are counted: it is refused as soon as it has more than the
weight files hold.
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
"""Limits of a configuration: about eight times the largest in use (for labels, three times)."""
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
"""Patterns of names: of numbers of layers, of tokens of a vocabulary, of other counts; and of names that match but are not counts."""
MOST_PARTS = 2**17
"""Modules and parameters of a model whose files are not there yet."""
PARTS_PER_TENSOR, SPARE_PARTS = 8, 500
"""A tensor in a file may become three parameters (fused queries, keys and values), each in nested modules."""
SPARE_PARAMETERS, SPARE_SHARE = 2**22, 0.25
"""Parameters beyond those in the files, for tables that are computed."""
LARGEST_BUFFERS = 2**30
"""Bytes of buffers, such as masks, beyond the size of the weights."""
PACKED = 16
"""Most weights in one number of a quantised file: two bits each in 32."""


def check_config(config: dict[str, Any], name: str) -> None:
    """Refuses counts that no model has.

    Args:
        config: the content of `config.json` or `tokenizer_config.json`.
        name: of the file, for errors.

    Raises:
        ModelError: more than 1,000 layers, 65,536 labels, 67 million tokens of the vocabulary or the context, or another count
            above a million.
    """
    for key, value in _numbers(config):
        largest = _largest(key.rpartition(".")[2].lower())
        if largest is not None and value > largest:
            raise ModelError(f"{name}: {key} is {shown(value)}; a model's {key} is at most {largest:,}")


def _numbers(config: Any) -> Iterator[tuple[str, float]]:
    """Numbers with their dotted names; those in a list have its name."""
    stack = [("", config)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{key}.{name}" if key else name, entry) for name, entry in value.items()]
        elif isinstance(value, list):
            stack += [(key, entry) for entry in value]
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
    """Limits of the parts of a model.

    Attributes:
        name: of the model, for errors.
        parts: modules and parameters.
        parameters: numbers in parameters; None: no limit.
        buffers: bytes in other tensors.
        held: a description of the files' content, for errors.
    """

    name: str
    parts: int = MOST_PARTS
    parameters: int | None = None
    buffers: int = LARGEST_BUFFERS
    held: str = ""

    @classmethod
    def from_weights(cls, name: str, config: dict[str, Any], weights: Weights | None) -> "Budget":
        """The limits of a model with these weight files."""
        if weights is None:
            return cls(name)
        held = weights.parameters * (PACKED if config.get("quantization_config") else 1)
        parts = min(MOST_PARTS, PARTS_PER_TENSOR * weights.tensors + SPARE_PARTS)
        content = f"the weight files hold at most {held:,} numbers in {weights.tensors:,} tensors"
        # A tied embedding exists twice until it is shared.
        return cls(name, parts, int(held * (2 + SPARE_SHARE)) + SPARE_PARAMETERS, LARGEST_BUFFERS + 8 * held, content)

    def refuse(self, what: str) -> None:
        raise ModelError(
            f"{self.name}: {what} cannot come from its files"
            f"{f' ({self.held})' if self.held else ''}; is config.json this model's, and the download complete?"
        )


def checked_files(path: str, name: str, revision: str | None) -> Budget:
    """Checks the files of a model before it is loaded.

    Args:
        path: a directory or a Hugging Face id.
        name: of the model, for errors.
        revision: of a Hugging Face id.

    Returns:
        The limits for `built_within`.

    Raises:
        ModelError: see `model_files.check_directory` and `check_config`.
        OSError: there is no such model.
    """
    directory = find_directory(path, revision)
    check_directory(directory)
    config = checked_config(directory)
    check_config(read_small(directory / TOKENIZER_CONFIG), str(directory / TOKENIZER_CONFIG))
    return Budget.from_weights(name, config, weights_in(directory, config))


def checked_config(directory: Path) -> dict[str, Any]:
    """The content of `config.json`; raises as `checked_files`."""
    path = directory / CONFIG
    if os.path.lexists(path):
        check_member(directory, path)
    config = read_small(path)
    check_config(config, str(path))
    return config


@contextmanager
def built_within(budget: Budget) -> Iterator[None]:
    """Counts the parts that are built without weights in this thread; ModelError when they exceed the budget."""
    thread, seen = threading.get_ident(), {}
    parts = parameters = buffers = 0

    def count(tensor: Any) -> None:
        nonlocal parts, parameters
        if threading.get_ident() != thread or (isinstance(tensor, Tensor) and tensor.device.type != "meta"):
            return
        if tensor is None or id(tensor) in seen:
            return
        seen[id(tensor)] = tensor  # kept, so that its id is not used again
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
