"""Scores as one safetensors file with a JSON header: no pickle, and nothing is believed before it was checked.

| scores | tensors (float64) | header |
|---|---|---|
| of edges | `values`, `stderr` [writer, reader]; where known `by_position`, `by_position_stderr` [writer, reader, position], `per_prompt` [row, edge] in float32, `kept` [writer, reader] of booleans | `schema`, `graph`, `provenance`, `n_prompts`, `positions`, `group` |
| of nodes | `per_prompt` [node, (position,) prompt]; `clean`, `corrupted` [prompt] where known | `schema`, `nodes`, `positions`, `provenance` |
| of COAR | also `bias` [prompt], `weight_stderr` [node, prompt], `mean_weight_stderr` [node] | also `fit` |

Edge scores of schema 1 had `values`, `stderr` and no more; they are still read.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuits.errors import InputError
from circuits.files.atomic import write_tensors
from circuits.files.untrusted import check_plain, check_tensors, parse_json, shown
from circuits.graph.graph import Graph
from circuits.results.circuit_file import as_object
from circuits.results.provenance import frozen, plain

SCHEMA = "mech-circuits edge scores 2"
OLD_SCHEMA = "mech-circuits edge scores 1"
NODE_SCHEMA = "mech-circuits node scores 1"
_MOST = 10**9
"""Prompts that a file may claim."""


EDGE_TENSORS = {
    "values": torch.float64,
    "stderr": torch.float64,
    "by_position": torch.float64,
    "by_position_stderr": torch.float64,
    "per_prompt": torch.float32,
    "kept": torch.bool,
}


FIT_TENSORS = ("bias", "weight_stderr", "mean_weight_stderr")


def write_scores(scores: Any, path: str | Path) -> None:
    """Writes `EdgeScores`, whole or not at all."""
    header = {
        "schema": SCHEMA,
        "graph": json.dumps(scores.graph.to_dict()),
        "provenance": json.dumps(plain(scores.provenance)),
        "n_prompts": str(scores.n_prompts),
        "positions": json.dumps(None if scores.positions is None else list(scores.positions)),
        "group": str(scores.group),
    }
    tensors = {name: getattr(scores, name) for name in EDGE_TENSORS}
    _write({name: t.to("cpu", EDGE_TENSORS[name]) for name, t in tensors.items() if t is not None}, header, path)


def read_scores(path: str | Path) -> dict[str, Any]:
    """The arguments of the `EdgeScores` that `write_scores` wrote.

    Raises:
        InputError: the file cannot be read or holds something else; with the reason.
    """
    with _opened(path, (SCHEMA, OLD_SCHEMA), "edge scores") as (file, header):
        if header["schema"] == OLD_SCHEMA:
            header = {**header, "positions": "null", "group": "1"}
        graph = Graph.from_dict(_parsed(header, "graph"))
        provenance = frozen(check_plain(as_object(_parsed(header, "provenance"), "provenance"), "provenance"))
        positions = _parsed(header, "positions")
        positions = None if positions is None else _names(positions, "positions")
        n_prompts, group = (_count(header[name], name) for name in ("n_prompts", "group"))
        there = set(file.keys()) | {"values", "stderr"}
        tensors = {name: file.get_tensor(name) for name in EDGE_TENSORS if name in there}
        for name, tensor in tensors.items():
            if tensor.dtype != EDGE_TENSORS[name]:
                raise InputError(f"{name} is {tensor.dtype}, which does not fit; expected {EDGE_TENSORS[name]}")
        check_shapes(graph, n_prompts, positions, group, tensors)
        return {
            "graph": graph, "n_prompts": n_prompts, "provenance": provenance, "positions": positions, "group": group, **tensors
        }  # fmt: skip


def check_shapes(
    graph: Graph, n_prompts: int, positions: tuple[str, ...] | None, group: int, tensors: Mapping[str, Tensor | None]
) -> None:
    """Refuses tensors of `EdgeScores`, by name, that fit neither its graph nor each other."""
    shape = tuple(graph.edge_mask.shape)
    expected = {name: shape for name in ("values", "stderr", "kept")}
    expected["by_position"] = expected["by_position_stderr"] = (*shape, len(positions or ()))
    expected["per_prompt"] = (-(-n_prompts // group), graph.n_edges)
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != expected[name]:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)}, which does not fit its graph; expected {expected[name]}"
            )
    if (positions is None) != (tensors.get("by_position") is None):
        raise InputError("positions and by_position come together; give both or neither")


def write_node_scores(scores: Any, path: str | Path, fit: Mapping[str, Any] | None = None) -> None:
    """Writes `NodeScores`, whole or not at all; with a `fit`, a `LinearAttribution`."""
    header = {
        "schema": NODE_SCHEMA,
        "nodes": json.dumps(list(scores.nodes)),
        "positions": json.dumps(None if scores.positions is None else list(scores.positions)),
        "provenance": json.dumps(plain(scores.provenance)),
    }
    runs = {"per_prompt": scores.per_prompt, "clean": scores.clean, "corrupted": scores.corrupted}
    if fit is not None:
        header["fit"] = json.dumps(fit)
        runs |= {name: getattr(scores, name) for name in FIT_TENSORS}
    _write({name: run.to("cpu", torch.float64) for name, run in runs.items() if run is not None}, header, path)


def read_node_scores(path: str | Path) -> dict[str, Any]:
    """The arguments of the `NodeScores` that `write_node_scores` wrote; with `fit` among them, of a `LinearAttribution`.

    Raises:
        InputError: the file cannot be read or holds something else; with the reason.
    """
    with _opened(path, (NODE_SCHEMA,), "node scores") as (file, header):
        nodes = _names(_parsed(header, "nodes"), "nodes")
        positions = _parsed(header, "positions")
        positions = None if positions is None else _names(positions, "positions")
        provenance = frozen(check_plain(as_object(_parsed(header, "provenance"), "provenance"), "provenance"))
        there = set(file.keys())
        per_prompt = file.get_tensor("per_prompt")
        clean, corrupted = (file.get_tensor(name) if name in there else None for name in ("clean", "corrupted"))
        fit = check_plain(as_object(_parsed(header, "fit"), "fit"), "fit") if "fit" in header else None
        fitted: dict[str, Any] = {} if fit is None else {name: file.get_tensor(name) for name in FIT_TENSORS}
    axes = (len(nodes),) if positions is None else (len(nodes), len(positions))
    prompts = per_prompt.shape[-1:]
    if per_prompt.shape != (*axes, *prompts) or prompts.numel() == 0 or per_prompt.dtype != torch.float64:
        raise InputError(
            f"{path}: per_prompt is {per_prompt.dtype} {tuple(per_prompt.shape)}; expected torch.float64 {axes} and the "
            "prompts"
        )
    for name, run in (("clean", clean), ("corrupted", corrupted)):
        if run is not None and (run.shape != prompts or run.dtype != torch.float64):
            raise InputError(
                f"{path}: {name} is {run.dtype} {tuple(run.shape)}; expected torch.float64 {tuple(prompts)}"
            )
    arguments: dict[str, Any] = {
        "nodes": nodes, "per_prompt": per_prompt, "positions": positions, "clean": clean, "corrupted": corrupted,
        "provenance": provenance,
    }  # fmt: skip
    if fit is None:
        return arguments
    shapes: dict[str, torch.Size] = dict(
        zip(FIT_TENSORS, (prompts, per_prompt.shape, per_prompt.shape[:1]), strict=True)
    )
    for name, tensor in fitted.items():
        if tensor.shape != shapes[name] or tensor.dtype != torch.float64:
            raise InputError(
                f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}; expected torch.float64 {tuple(shapes[name])}"
            )
    if not {"samples", "components", "rank", "held_out"} <= fit.keys():
        raise InputError(f"{path}: its fit does not say samples, components, rank and held_out")
    return arguments | fitted | {"fit": fit}


def _parsed(header: dict[str, str], name: str) -> Any:
    """An entry of the header, which is JSON; another is a ValueError, as what `int` says of no number is."""
    try:
        return parse_json(header[name])
    except InputError as problem:
        raise ValueError(f"its {name} {problem}") from None


def _names(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise InputError(f"{what} must be a list of names, got {shown(value)}")
    return tuple(value)


def _count(text: str, what: str) -> int:
    number = int(text)
    if not 1 <= number <= _MOST:
        raise InputError(f"{what} must be between 1 and {_MOST}, got {number}")
    return number


def _write(tensors: dict[str, Tensor], header: dict[str, str], path: str | Path) -> None:
    # Cloned, since safetensors refuses tensors that share memory.
    cloned = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_tensors(cloned, path, header)


@contextmanager
def _opened(path: str | Path, schemas: tuple[str, ...], what: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """The file and its header; whatever is wrong with either becomes an InputError that names the file."""
    try:
        check_tensors(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("schema") not in schemas:
                raise InputError(f"schema {shown(header.get('schema'))}; expected {schemas[0]!r}")
            yield file, header
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from None
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None
    except (SafetensorError, KeyError, ValueError, RecursionError) as problem:
        raise InputError(f"{path} is not a file of {what}: {problem}") from None
