"""Loading a model, and what the rest of the project knows of it.

A model is a TransformerBridge whose graph was checked to be exact. Any of these can be loaded: a short name
(`smollm2-135m`, `compiled/induction`), a Hugging Face id, a directory, a Hugging Face model object, or a bridge that the
user already has.
"""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from transformer_lens import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from circuits import plugins, zoo
from circuits.engine.architecture import Architecture, describe
from circuits.engine.check import CheckReport, check
from circuits.engine.foreign_hooks import refuse_hooks
from circuits.engine.held import held
from circuits.engine.hooks import inference_state
from circuits.engine.placement import (
    DeviceMap,
    check_device_map,
    check_map_covers,
    check_placed_here,
    check_weights_are_there,
    choose_device,
    choose_dtype,
    devices,
    move_streams,
)
from circuits.engine.usable_weights import check_no_adapter, check_weights_usable
from circuits.errors import InputError, ModelError, lacks_memory
from circuits.graph.graph import Graph
from circuits.graph.nodes import Widths
from circuits.model_files import why_no_tokenizer
from circuits.model_sizes import built_within, checked_files
from circuits.plain_torch import plain_torch


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    Attributes:
        bridge: TransformerLens' hooked model.
        architecture: how the engine sees its blocks.
        tokenizer: the Hugging Face tokenizer, or None (prompts are then token ids).
        name: what it was loaded as.
        revision: revision of the checkpoint, where one was asked for.
        report: what the check at loading found.
        compatibility_mode: whether TransformerLens' compatibility mode was on at loading; a later change is refused.
        loaded_by: how another process can load it: options of `load_model`; None for a model that was given as an object.
        allow_hooks: whether hooks that somebody else put on it are allowed; results name them in their provenance.
    """

    bridge: TransformerBridge
    architecture: Architecture
    tokenizer: Any
    name: str
    revision: str | None
    report: CheckReport
    compatibility_mode: bool = False
    loaded_by: dict[str, Any] | None = None
    allow_hooks: bool = False

    def __repr__(self) -> str:
        where = ", ".join(map(str, devices(self.bridge)))
        return f"Model({self.name!r}, {self.graph.n_layers} layers, {self.graph.n_edges} edges, {self.dtype}, {where})"

    def __copy__(self) -> "Model":
        return replace(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Neither pickled nor deep-copied: hooks of the bridge would go on to refer to the first model's weights.

        Raises:
            InputError: always.
        """
        how = f"load_model({self.name!r})" if self.loaded_by is not None else "load_model(…) on a copy of the original"
        raise InputError(
            f"the loaded model {self.name} can be neither pickled nor deep-copied; load it again where it is needed, with {how}. "
            "Pairs, scores and circuits can be pickled"
        )

    @property
    def graph(self) -> Graph:
        """Writers, readers and edges."""
        return self.architecture.graph

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where its embedding is, where prompts go, and where scores are summed."""
        return next(self.bridge.parameters()).device

    @property
    def d_vocab(self) -> int:
        """Number of token ids."""
        return int(self.bridge.cfg.d_vocab)

    @property
    def n_neurons(self) -> int:
        """Neurons per MLP; 0 where their hook is missing (expert layers) or there are no MLPs."""
        if all(block.neurons is None for block in self.architecture.blocks):
            return 0
        return int(getattr(self.bridge.cfg, "d_mlp", 0) or 0)

    @property
    def widths(self) -> Widths:
        """How many entries its activations have."""
        d_head = self.architecture.blocks[0].output_projection.shape[1]
        return Widths(d_head, int(self.bridge.cfg.d_model), self.n_neurons)

    @property
    def n_ctx(self) -> int:
        """Longest prompt, in tokens."""
        return int(self.bridge.cfg.n_ctx)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, beginning with the tokenizer's BOS token where it has one.

        Raises:
            InputError: the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise InputError(
                f"{self.name} has no tokenizer, so prompts must be lists of token ids, not text ({text!r})"
            )
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        bos = self.tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

    @property
    def weights_hash(self) -> str:
        """sha256 over all parameters and buffers (names, shapes, bytes); computed again when a weight has changed."""
        tensors = [*self.bridge.original_model.parameters(), *self.bridge.original_model.buffers()]
        state = tuple((tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors)
        if state not in self._hashes:
            self._hashes.clear()
            self._hashes[state] = self._hash_weights()
        return self._hashes[state]

    @cached_property
    def _hashes(self) -> dict[tuple[tuple[int, int], ...], str]:
        return {}

    def _hash_weights(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.bridge.original_model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


@plain_torch
def load_model(
    model: str | Path | nn.Module,
    *,
    dtype: str | torch.dtype | None = None,
    device: str = "auto",
    device_map: DeviceMap | None = None,
    revision: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    allow_hooks: bool = False,
) -> Model:
    """Loads a model and checks that its graph is exact.

    Args:
        model: a short name (`circuits models` lists them), a Hugging Face id, a directory, a Hugging Face model object
            or a TransformerBridge. Objects are left as they were; they keep their own dtype and device, and a Hugging
            Face model shares its weights with the result.
        dtype: `float32`, `float64`, `bfloat16` or `float16`, for what is loaded by name. None: float32 for what is loaded
            from files, and its own for a model that is built (compiled models are float64).
        device: `auto` (CUDA if there is one, else CPU) or a torch device.
        device_map: in place of `device`, for what is loaded from files: how accelerate spreads the layers over devices,
            `auto`, `balanced`, `sequential` or a device for each module. Weights may not be offloaded. A Hugging Face model
            object that accelerate has dispatched needs none.
        revision: branch, tag or commit of a Hugging Face id.
        tokenizer: a tokenizer to use instead of the checkpoint's own.
        trust_remote_code: let a Hugging Face repository run code of its own.
        allow_hooks: compute even where somebody else's hooks are on the model, now or later; they change results, which name
            them in their provenance (`hooks`). Otherwise such a model is refused.

    Raises:
        InputError: an unknown dtype or device, a `device_map` that cannot be followed, or hooks that are not allowed.
        ModelError: the model cannot be found, is not supported, its files lead out of their directory or are of other sizes than
            its configuration states, or its graph does not check out.

    >>> model = load_model("smollm2-135m")  # doctest: +SKIP
    >>> model.graph.n_edges  # doctest: +SKIP
    70651
    """
    if device_map is not None:
        check_map_belongs(model, device)
        check_device_map(device_map)
    own_tokenizer = tokenizer
    wanted_device = choose_device(device)
    wanted_dtype = None if dtype is None else choose_dtype(dtype)
    if isinstance(model, TransformerBridge):
        bridge, name = model, str(getattr(model.cfg, "model_name", None) or "bridge")
        check_placed_here(bridge, name)
        tokenizer = tokenizer or model.tokenizer
    elif isinstance(model, nn.Module):
        bridge, name = _bridge_around_copy(model), getattr(model, "name_or_path", "") or type(model).__name__
    elif isinstance(model, str) and plugins.names_built_model(model):
        name = model.replace("_", "-")
        bridge = _built(name, wanted_dtype, wanted_device, revision)
    elif isinstance(model, str | Path):
        name = str(model)
        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        with _refusing(name):
            bridge, found = _from_files(name, wanted_dtype or torch.float32, wanted_device, device_map, options)
        tokenizer = tokenizer or found
    else:
        raise InputError(
            f"cannot load a {type(model).__name__}; give a name, a directory, a model or a TransformerBridge"
        )
    with held(bridge, name) as here:
        if not allow_hooks:
            refuse_hooks(here.foreign_hooks, name)
        check_weights_usable(here.modules, name)
        with _refusing(name) if isinstance(model, str | Path) else nullcontext():
            architecture = describe(bridge)
            with inference_state(bridge):
                report = check(architecture, name)
    by_name = isinstance(model, str | Path) and own_tokenizer is None and isinstance(device_map, str | None)
    origin = None
    if by_name:
        origin = {"name": name, "device": device, "device_map": device_map, "trust_remote_code": trust_remote_code}
    mode = bool(bridge.compatibility_mode)
    loaded = Model(bridge, architecture, tokenizer, name, revision, report, mode, origin, allow_hooks)
    if isinstance(model, str) and model in zoo.names():
        _check_golden(loaded)
    return loaded


def _built(name: str, dtype: torch.dtype | None, device: torch.device, revision: str | None) -> TransformerBridge:
    """A model that is built, by its name; see `circuits.plugins`."""
    if revision is not None:
        raise InputError(f"{name} is built here and has no revisions; got {revision!r}")
    bridge = plugins.find_model(name).bridge()
    if not isinstance(bridge, TransformerBridge):
        raise ModelError(f"{name}: its bridge() gave a {type(bridge).__name__}; expected a TransformerBridge")
    nn.Module.to(bridge, device=device, dtype=dtype)  # the bridge's own prints what it does
    bridge.eval().requires_grad_(False)
    return bridge


def check_map_belongs(model: object, device: str) -> None:
    """Whether a device map can go with this model and this device.

    Raises:
        InputError: it cannot.
    """
    if device != "auto":
        raise InputError(f"both device {device!r} and a device_map are given; give one of them")
    if not isinstance(model, str | Path) or (isinstance(model, str) and plugins.names_built_model(model)):
        what = model if isinstance(model, str) else f"a {type(model).__name__}"
        raise InputError(f"device_map places what is loaded from files, and {what} is not; leave it out")


def _from_files(
    name: str, dtype: torch.dtype, device: torch.device, device_map: DeviceMap | None, options: dict[str, Any]
) -> tuple[TransformerBridge, Any]:
    """A checkpoint's model, where it was asked for, and its tokenizer."""
    model, tokenizer = _load_files(name, dtype, device_map, options)
    if device_map is None:
        model = model.to(device)
    else:
        check_map_covers(model, device_map, name)
    return _build(model.eval().requires_grad_(False), name), tokenizer


def _load_files(
    name: str, dtype: torch.dtype, device_map: DeviceMap | None, options: dict[str, Any]
) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    path = _fetched(name) if name in zoo.names() else name
    check_no_adapter(path)
    placed: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with built_within(checked_files(path, name, options["revision"])):
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
    return model, _tokenizer(path, options)


def _tokenizer(path: str, options: dict[str, Any]) -> Any:
    """A checkpoint's tokenizer; None where it has none that works."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, **options)
        tokenizer("a", add_special_tokens=False)
    except Exception:  # the tokenizers' own errors are of no other kind
        if (wrong := why_no_tokenizer(Path(path))) is not None:
            raise ModelError(f"the tokenizer of {path} cannot be loaded: {wrong}") from None
        return None
    return tokenizer if tokenizer.vocab_size else None  # transformers makes an empty one up where a directory has none


def _fetched(name: str) -> str:
    with zoo.rich_progress() as progress:
        return str(zoo.fetch(name, progress, full=True))


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Whatever a library meets in files that somebody else may have written is a `ModelError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as problem:
        raise ModelError(_not_loaded(name, problem)) from problem


def _not_loaded(name: str, problem: Exception) -> str:
    from difflib import get_close_matches

    if lacks_memory(problem):
        return f"there is not enough memory to load {name!r}; bfloat16 takes half of it ('circuits models memory' tells how much)"
    lines = [line for line in str(problem).splitlines() if line.strip()] or [type(problem).__name__]
    near = get_close_matches(name, [*zoo.names(), *plugins.model_names()], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    kind = "directory" if Path(name).is_dir() else "short name, directory or Hugging Face id"
    return f"cannot load {name!r} as a {kind}: {lines[0]}{hint} (short names: {', '.join(zoo.names())})"


def _bridge_around_copy(model: nn.Module) -> TransformerBridge:
    """A bridge around a copy of the module tree; the weights themselves are shared."""
    check_weights_usable(model.modules(), getattr(model, "name_or_path", "") or type(model).__name__)
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    name = getattr(model, "name_or_path", "") or type(model).__name__
    try:
        twin = copy.deepcopy(model, dict(shared))
    except RuntimeError as problem:
        if lacks_memory(problem):
            raise
        raise ModelError(
            f"{name} cannot be copied: {str(problem).strip().partition(chr(10))[0]} (a module computes its weights anew in every pass; "
            "of torch.nn.utils.prune, call prune.remove first)"
        ) from problem
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


def _check_golden(model: Model) -> None:
    """Known next-token logits of a model with a short name, and its tokenizer's ids."""
    from circuits.engine.hooks import TokenBatch, run

    def logits(ids: list[int]) -> torch.Tensor:
        tokens = torch.tensor([ids], device=model.device)
        position = torch.tensor([len(ids) - 1], device=model.device)
        with torch.no_grad():
            return run(model.architecture, TokenBatch(tokens, position))[0]

    if model.dtype in (torch.float32, torch.float64):
        zoo.check_golden(model.name, logits, lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"])
