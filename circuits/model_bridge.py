"""Finds the TransformerBridge of a model: of a short name, a directory, a Hugging Face id or model, or a bridge."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformer_lens import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from circuits import plugins, zoo
from circuits.engine.dequantised import dequantise
from circuits.engine.placement import (
    DeviceMap,
    check_map_covers,
    check_placed_here,
    check_weights_are_there,
    move_streams,
)
from circuits.engine.usable_weights import check_no_adapter, check_weights_usable
from circuits.errors import InputError, ModelError, lacks_memory
from circuits.model_files import find_directory, hub_is_known, why_no_tokenizer
from circuits.model_sizes import built_within, checked_files
from circuits.model_ungrouped import ungroup


@dataclass(frozen=True)
class Request:
    """How a model is loaded; see `circuits.load_model`."""

    dtype: torch.dtype | None
    device: torch.device
    device_map: DeviceMap | None
    revision: str | None
    trust_remote_code: bool
    ungrouped: bool = False


def find_bridge(model: str | Path | nn.Module, request: Request) -> tuple[TransformerBridge, str, Any]:
    """The bridge of a model, its name and its tokenizer (None where the model brings none); raises as `load_model`."""
    if isinstance(model, TransformerBridge):
        name = str(getattr(model.cfg, "model_name", None) or "bridge")
        check_placed_here(model, name)
        return model, name, model.tokenizer
    if isinstance(model, nn.Module):
        name = getattr(model, "name_or_path", "") or type(model).__name__
        return _bridge_around_copy(model, name, request.ungrouped), name, None
    if isinstance(model, str) and plugins.names_built_model(model):
        name = model.replace("_", "-")
        return _built(name, request), name, None
    if isinstance(model, str | Path):
        with model_errors(str(model)):
            bridge, tokenizer = _from_files(str(model), request)
        return bridge, str(model), tokenizer
    raise InputError(f"cannot load a {type(model).__name__}; give a name, a directory, a model or a TransformerBridge")


@contextmanager
def model_errors(name: str) -> Iterator[None]:
    """Turns every error of a library about untrusted files into a `ModelError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as problem:
        raise ModelError(_not_loaded(name, problem)) from problem


def _not_loaded(name: str, problem: Exception) -> str:
    if lacks_memory(problem):
        return f"there is not enough memory to load {name!r}; bfloat16 takes half of it ('circuits models memory' predicts how much)"
    lines = [line for line in str(problem).splitlines() if line.strip()] or [type(problem).__name__]
    near = get_close_matches(name, [*zoo.names(), *plugins.model_names()], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    kind = "directory" if Path(name).is_dir() else "short name, directory or Hugging Face id"
    return f"cannot load {name!r} as a {kind}: {lines[0]}{hint} (short names: {', '.join(zoo.names())})"


def _built(name: str, request: Request) -> TransformerBridge:
    """A model that is built by name; see `circuits.plugins`."""
    if request.revision is not None:
        raise InputError(f"{name} is built in Python and has no revisions; got {request.revision!r}")
    bridge = plugins.find_model(name).bridge()
    if not isinstance(bridge, TransformerBridge):
        raise ModelError(f"{name}: its bridge() gave a {type(bridge).__name__}; expected a TransformerBridge")
    nn.Module.to(bridge, device=request.device, dtype=request.dtype)  # the bridge's own method prints
    bridge.eval().requires_grad_(False)
    return bridge


def _from_files(name: str, request: Request) -> tuple[TransformerBridge, Any]:
    """A model on its devices, and its tokenizer."""
    options = {"revision": request.revision, "trust_remote_code": request.trust_remote_code}
    path = name
    if name in zoo.names():
        with zoo.rich_progress() as progress:
            path = str(zoo.fetch(name, progress, full=True))
    elif not Path(path).is_dir() and not hub_is_known():
        path = str(find_directory(path, request.revision))
    check_no_adapter(path)
    model = _load_checkpoint(path, name, request, options)
    tokenizer = _tokenizer(path, options)
    if request.device_map is None:
        model = model.to(request.device)
    else:
        check_map_covers(model, request.device_map, name)
    model = model.eval().requires_grad_(False)
    if request.ungrouped:
        ungroup(model, name)
    return _build(model, name), tokenizer


def _load_checkpoint(path: str, name: str, request: Request, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    placed: dict[str, Any] = {} if request.device_map is None else {"device_map": request.device_map}
    dtype = request.dtype or torch.float32
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with built_within(checked_files(path, name, request.revision)):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, attn_implementation="eager", output_loading_info=True, **options, **placed
            )
    finally:
        if bars:
            logging.enable_progress_bar()
    model, report = loaded
    absent = sorted([*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])])
    if absent:
        raise ModelError(
            f"{name}: the checkpoint lacks {len(absent)} of the model's tensors ({', '.join(absent[:3])}"
            f"{' …' if len(absent) > 3 else ''}); they would be random numbers. Is the download complete?"
        )
    dequantise(model, dtype, name)
    return model


def _tokenizer(path: str, options: dict[str, Any]) -> Any:
    """A checkpoint's tokenizer; None if it has none that works."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, **options)
        tokenizer("a", add_special_tokens=False)
    except Exception:  # tokenizers raises bare exceptions
        if (wrong := why_no_tokenizer(Path(path))) is not None:
            raise ModelError(f"the tokenizer of {path} cannot be loaded: {wrong}") from None
        return None
    return tokenizer if tokenizer.vocab_size else None  # transformers returns an empty one for a directory without


def _bridge_around_copy(model: nn.Module, name: str, ungrouped: bool) -> TransformerBridge:
    """A bridge around a copy of the module tree, which shares the weights (but for key/value heads that are copied out)."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    try:
        twin = copy.deepcopy(model, dict(shared))
    except RuntimeError as problem:
        if lacks_memory(problem):
            raise
        raise ModelError(
            f"{name} cannot be copied: {str(problem).strip().partition(chr(10))[0]} (a module computes its weights anew in every pass; "
            "of torch.nn.utils.prune, call prune.remove first)"
        ) from problem
    dequantise(twin, next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.float32), name)
    if ungrouped:
        ungroup(twin, name)
    return _build(twin, name)


def _build(hf_model: Any, name: str) -> TransformerBridge:
    config = getattr(hf_model, "config", None)
    if config is None:
        raise ModelError(
            f"{name}: a {type(hf_model).__name__} has no config; expected a Hugging Face causal language model"
        )
    if hasattr(hf_model, "set_attn_implementation"):
        hf_model.set_attn_implementation("eager")
    check_weights_are_there(hf_model, name)
    check_weights_usable(hf_model.modules(), name)
    try:
        bridge = build_bridge_from_module(hf_model, type(hf_model).__name__, hf_config=config, model_name=name)
    except (ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError) as problem:
        raise ModelError(f"{name}: TransformerLens cannot wrap a {type(hf_model).__name__}: {problem}") from problem
    move_streams(bridge)
    return bridge
