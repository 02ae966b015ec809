"""Scores as one safetensors file with a JSON header: no pickle, and every part is checked.

| scores | tensors (float64) | header |
|---|---|---|
| of edges | `values`, `stderr` [writer, reader]; where known `by_position`, `by_position_stderr` [writer, reader, position], `per_prompt` [row, edge] in float32, `kept` [writer, reader] of booleans | `schema`, `graph`, `provenance`, `n_prompts`, `positions`, `group` |
| of edges, by place | also `places.values`, `places.stderr` … [writer, reader at a place] | also `places.graph`, `places.n_prompts`, `places.group` |
| of nodes | `per_prompt` [node, (position,) prompt]; `clean`, `corrupted` [prompt] where known | `schema`, `nodes`, `positions`, `provenance` |
| of direct effects | also `constant` [prompt] | |
| of COAR | also `bias` [prompt], `weight_stderr` [node, (position,) prompt], `mean_weight_stderr` [node(, position)] | also `fit` |

Edge scores of schema 1 had only `values` and `stderr`; they can still be read.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.errors import InputError
from circuits.files.atomic import write_tensors
from circuits.files.untrusted import as_object, check_plain, open_tensors, parse_json, shown
from circuits.graph.graph import Graph
from circuits.graph.places import from_dict as graph_from_dict
from circuits.results.provenance import frozen, plain

SCHEMA = "mech-circuits edge scores 2"
OLD_SCHEMA = "mech-circuits edge scores 1"
NODE_SCHEMA = "mech-circuits node scores 1"
PLACED = "places."
"""The beginning of the names of what belongs to the effects by place."""
_MOST = 10**9
"""The largest number of prompts that a file may state."""
EDGE_TENSORS = {
    "values": torch.float64,
    "stderr": torch.float64,
    "by_position": torch.float64,
    "by_position_stderr": torch.float64,
    "per_prompt": torch.float32,
    "kept": torch.bool,
}
RUN_TENSORS = ("clean", "corrupted", "constant")
FIT_TENSORS = ("bias", "weight_stderr", "mean_weight_stderr")


def write_scores(scores: Any, path: str | Path) -> None:
    """Writes `EdgeScores` atomically."""
    header = _common_header(scores, SCHEMA) | _edge_header(scores)
    tensors = _edge_tensors(scores)
    if scores.placed is not None:
        tensors |= {f"{PLACED}{name}": tensor for name, tensor in _edge_tensors(scores.placed).items()}
        header |= {f"{PLACED}{name}": value for name, value in _edge_header(scores.placed).items()}
    _write(tensors, header, path)


def _edge_header(scores: Any) -> dict[str, str]:
    graph = json.dumps(scores.graph.to_dict())
    return {"graph": graph, "n_prompts": str(scores.n_prompts), "group": str(scores.group)}


def _edge_tensors(scores: Any) -> dict[str, Tensor]:
    tensors = {name: getattr(scores, name) for name in EDGE_TENSORS}
    return {name: tensor.to("cpu", EDGE_TENSORS[name]) for name, tensor in tensors.items() if tensor is not None}


def read_scores(path: str | Path) -> dict[str, Any]:
    """The arguments of the `EdgeScores` that `write_scores` wrote.

    Raises:
        InputError: the file cannot be read or holds something else; with the reason.
    """
    with _opened(path, (SCHEMA, OLD_SCHEMA), "edge scores") as (file, header):
        if header["schema"] == OLD_SCHEMA:
            header = {**header, "positions": "null", "group": "1"}
        common = _common_arguments(header)
        arguments = {**common, **_edge_arguments(file, header, common["positions"])}
        placed = None
        if f"{PLACED}graph" in header:
            placed = {"provenance": common["provenance"], **_edge_arguments(file, header, None, PLACED)}
            if placed["graph"].base != arguments["graph"]:
                raise InputError("its effects by place belong to another graph")
        return {**arguments, "placed": placed}


def _edge_arguments(
    file: Any, header: dict[str, str], positions: tuple[str, ...] | None, prefix: str = ""
) -> dict[str, Any]:
    """Graph, sizes and tensors whose names begin with `prefix`."""
    graph = graph_from_dict(_parsed(header, f"{prefix}graph"))
    n_prompts, group = (_count(header[f"{prefix}{name}"], name) for name in ("n_prompts", "group"))
    there = set(file.keys()) | {f"{prefix}values", f"{prefix}stderr"}
    tensors = {name: file.get_tensor(f"{prefix}{name}") for name in EDGE_TENSORS if f"{prefix}{name}" in there}
    for name, tensor in tensors.items():
        if tensor.dtype != EDGE_TENSORS[name]:
            raise InputError(f"{prefix}{name} is {tensor.dtype}, which does not fit; expected {EDGE_TENSORS[name]}")
    check_shapes(graph, n_prompts, positions, group, tensors)
    return {"graph": graph, "n_prompts": n_prompts, "group": group, **tensors}


def check_shapes(
    graph: Graph, n_prompts: int, positions: tuple[str, ...] | None, group: int, tensors: Mapping[str, Tensor | None]
) -> None:
    """Refuses tensors of `EdgeScores` that do not fit its graph or each other."""
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
    """Writes `NodeScores` atomically; with a `fit`, a `LinearAttribution`."""
    header = _common_header(scores, NODE_SCHEMA) | {"nodes": json.dumps(list(scores.nodes))}
    runs = {"per_prompt": scores.per_prompt} | {name: getattr(scores, name, None) for name in RUN_TENSORS}
    if fit is not None:
        header["fit"] = json.dumps(fit)
        runs |= {name: getattr(scores, name) for name in FIT_TENSORS}
    _write({name: run.to("cpu", torch.float64) for name, run in runs.items() if run is not None}, header, path)


def read_node_scores(path: str | Path) -> dict[str, Any]:
    """The arguments of the `NodeScores` that `write_node_scores` wrote; with `fit` of a `LinearAttribution`, with `constant` of
    `DirectEffects`.

    Raises:
        InputError: the file cannot be read or holds something else; with the reason.
    """
    with _opened(path, (NODE_SCHEMA,), "node scores") as (file, header):
        nodes = _names(_parsed(header, "nodes"), "nodes")
        common = _common_arguments(header)
        fit = _object(header, "fit") if "fit" in header else None
        optional = set(RUN_TENSORS) & set(file.keys())
        names = ("per_prompt", *optional, *(() if fit is None else FIT_TENSORS))
        tensors = {name: file.get_tensor(name) for name in names}
        per_prompt, positions = tensors["per_prompt"], common["positions"]
        axes = (len(nodes),) if positions is None else (len(nodes), len(positions))
        prompts = tuple(per_prompt.shape[-1:])
        if per_prompt.shape != (*axes, *prompts) or 0 in prompts or per_prompt.dtype != torch.float64:
            raise InputError(f"per_prompt is {_form(per_prompt)}; expected torch.float64 {axes} and the prompts")
        shapes = {"weight_stderr": tuple(per_prompt.shape), "mean_weight_stderr": axes}
        for name, tensor in tensors.items():
            shape = shapes.get(name, prompts)
            if name != "per_prompt" and (tensor.shape != shape or tensor.dtype != torch.float64):
                raise InputError(f"{name} is {_form(tensor)}; expected torch.float64 {shape}")
        if fit is not None and not {"samples", "components", "rank", "held_out"} <= fit.keys():
            raise InputError("its fit must have samples, components, rank and held_out")
        return {"nodes": nodes, **common, **tensors, **({} if fit is None else {"fit": fit})}


def _common_header(scores: Any, schema: str) -> dict[str, str]:
    positions = None if scores.positions is None else list(scores.positions)
    provenance = json.dumps(plain(scores.provenance))
    return {"schema": schema, "positions": json.dumps(positions), "provenance": provenance}


def _common_arguments(header: dict[str, str]) -> dict[str, Any]:
    positions = _parsed(header, "positions")
    named = None if positions is None else _names(positions, "positions")
    return {"positions": named, "provenance": frozen(_object(header, "provenance"))}


def _object(header: dict[str, str], name: str) -> dict[str, Any]:
    return check_plain(as_object(_parsed(header, name), name), name)


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _parsed(header: dict[str, str], name: str) -> Any:
    """An entry of the header, which is JSON; if it is not, a ValueError, as `int` raises for an invalid number."""
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
    """The file and its header, with one of these schemas; raises as `open_tensors`."""
    with open_tensors(path, what) as (file, header):
        if header.get("schema") not in schemas:
            nodes = "node scores" in str(header.get("schema")) and "edge scores" in schemas[0]
            hint = "; these are scores of nodes, and what is needed are scores of edges, or a circuit" if nodes else ""
            raise InputError(f"schema {shown(header.get('schema'))}; expected {schemas[0]!r}{hint}")
        yield file, header
