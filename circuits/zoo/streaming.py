"""Writes a safetensors file one tensor at a time.

`safetensors.numpy.save_file` needs all tensors in memory (half a gigabyte for the smallest model) and reports no progress. The
format is simple: a length, a JSON header and the bytes.
"""

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from circuits.zoo.entry import Progress, no_progress

FLOAT32_BYTES = 4


def write_float32(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    values: Callable[[str], np.ndarray],
    progress: Progress = no_progress,
) -> None:
    """Writes float32 tensors in the order of `shapes`, calling `values` for one at a time; ValueError for a wrong shape."""
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + FLOAT32_BYTES * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight bytes
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        done = 0
        for name, shape in shapes.items():
            tensor = values(name)
            if tensor.shape != shape:
                raise ValueError(f"{name} has shape {tensor.shape}, announced as {shape}")
            done += file.write(tensor.astype("<f4", order="C", copy=False).data)
            progress("convert", done, end)
