"""Loads a model: a TransformerBridge whose graph was checked to be exact.

A model can be a short name (`smollm2-135m`, `compiled/induction`), a Hugging Face id, a directory, a Hugging Face model object,
or a TransformerBridge.
"""

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformer_lens import TransformerBridge

from circuits import plugins, zoo
from circuits.engine.architecture import Architecture, describe
from circuits.engine.check import CheckReport, check
from circuits.engine.foreign_hooks import refuse_hooks
from circuits.engine.held import held
from circuits.engine.hooks import inference_state
from circuits.engine.placement import DeviceMap, check_device_map, choose_device, choose_dtype, devices
from circuits.engine.usable_weights import check_weights_usable
from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.graph.nodes import Place, Widths
from circuits.memory_budget import parse_memory
from circuits.model_bridge import Request, find_bridge, model_errors
from circuits.model_ungrouped import check_ungrouped, grouped_graph
from circuits.plain_torch import plain_torch
from circuits.remembered_check import check_key, remember, remembered
from circuits.shown import Shown
from circuits.threads import warn_if_busy


@dataclass(frozen=True, eq=False, repr=False)
class Model(Shown):
    """A loaded model.

    Attributes:
        bridge: TransformerLens' hooked model.
        architecture: the engine's description of its blocks.
        tokenizer: the Hugging Face tokenizer, or None (prompts are then token ids).
        name: the name it was loaded by.
        revision: the requested revision, if any.
        report: the result of the check at loading.
        compatibility_mode: whether TransformerLens' compatibility mode was on at loading; a later change is refused.
        loaded_by: options of `load_model` with which another process can load it; None for a model given as an object.
        allow_hooks: whether foreign hooks on the model are allowed; results name them in their provenance.
        memory: bytes that computations may need besides the weights; None: 60% of what is free.
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
    memory: int | None = None

    def __repr__(self) -> str:
        where = ", ".join(map(str, devices(self.bridge)))
        return f"Model({self.name!r}, {self.graph.n_layers} layers, {self.graph.n_edges} edges, {self.dtype}, {where})"

    def rows(self) -> list[dict[str, Any]]:
        """What is known of it, as names and values."""
        graph, cfg = self.graph, self.bridge.cfg
        facts = {
            "name": self.name, "layers": graph.n_layers, "heads": graph.n_heads, "key/value heads": graph.n_kv_heads,
            "d_model": int(cfg.d_model), "vocabulary": self.d_vocab, "context": self.n_ctx, "edges": graph.n_edges,
            "dtype": str(self.dtype), "device": ", ".join(map(str, devices(self.bridge))),
            "graph checked": "before, with these weights and versions" if self.report.remembered else "at loading",
        }  # fmt: skip
        return [{"name": name, "value": value} for name, value in facts.items()]

    def __copy__(self) -> "Model":
        return replace(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuses pickling and deep copies: the hooks of the copy would refer to the weights of the original."""
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
    def grouped_graph(self) -> Graph:
        """The graph with the key/value heads that its checkpoint has; differs only in a model that was loaded `ungrouped`."""
        return grouped_graph(self.graph, self.bridge.original_model)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.parameters()).dtype

    @property
    def dequantised(self) -> str | None:
        """What its quantised layers were, if it had some (`circuits.engine.dequantised`); None: its weights are its own."""
        return getattr(self.bridge.original_model, "dequantised_from", None)

    @property
    def device(self) -> torch.device:
        """The device of the embedding, of prompts, and of sums of scores."""
        return next(self.bridge.parameters()).device

    @property
    def d_vocab(self) -> int:
        """Number of token ids."""
        return int(self.bridge.cfg.d_vocab)

    @property
    def n_neurons(self) -> int:
        """Neurons per MLP; 0 if they have no hook (expert layers) or there are no MLPs."""
        if all(block.neurons is None for block in self.architecture.blocks):
            return 0
        return int(getattr(self.bridge.cfg, "d_mlp", 0) or 0)

    @property
    def widths(self) -> Widths:
        """The widths of its activations."""
        d_head = self.architecture.blocks[0].output_projection.shape[1]
        return Widths(d_head, int(self.bridge.cfg.d_model), self.n_neurons, self.places)

    @property
    def places(self) -> tuple[Place, ...]:
        """The places where dictionaries are inserted; none, unless a call was given some."""
        return tuple(
            Place(one.place, one.layer, one.coder.W_dec.shape[0], one.coder.skip is not None)
            for one in self.architecture.inserted.values()
        )

    @property
    def n_inserted(self) -> int:
        """Numbers that inserted dictionaries add per token."""
        return sum(place.n_features for place in self.places)

    @property
    def n_ctx(self) -> int:
        """Longest prompt, in tokens."""
        return int(self.bridge.cfg.n_ctx)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, beginning with the BOS token if the tokenizer has one; InputError without a tokenizer."""
        if self.tokenizer is None:
            raise InputError(
                f"{self.name} has no tokenizer, so prompts must be lists of token ids, not text ({text!r})"
            )
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        bos = self.tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

    @property
    def weights_hash(self) -> str:
        """SHA-256 of all parameters and buffers (names, shapes, bytes); computed again when a weight has changed."""
        return weights_hash(self.bridge)


_HASHES: "WeakKeyDictionary[TransformerBridge, tuple[object, str]]" = WeakKeyDictionary()
"""Of each bridge, the state of its weights and their hash."""


def weights_hash(bridge: TransformerBridge) -> str:
    """See `Model.weights_hash`."""
    model = bridge.original_model
    tensors = [*model.parameters(), *model.buffers()]
    state = tuple((tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors)
    known = _HASHES.get(bridge)
    if known is not None and known[0] == state:
        return known[1]
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    _HASHES[bridge] = state, digest.hexdigest()
    return _HASHES[bridge][1]


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
    ungrouped: bool = False,
    memory: str | int | None = None,
) -> Model:
    """Loads a model and checks that its graph is exact.

    Args:
        model: a short name (`circuits models` lists them), a Hugging Face id, a directory, a Hugging Face model object
            or a TransformerBridge. Objects are not changed, and keep their dtype and device; a Hugging Face model shares its
            weights with the result.
        dtype: `float32`, `float64`, `bfloat16` or `float16`, for a model loaded by name. None: float32 for files, and the
            model's own dtype for a built model (compiled models are float64).
        device: `auto` (CUDA if available, else CPU) or a torch device.
        device_map: instead of `device`, for models loaded from files: how accelerate distributes the layers, `auto`,
            `balanced`, `sequential` or a device for each module. Weights may not be offloaded. Not needed for a Hugging Face
            model object that accelerate has dispatched.
        revision: branch, tag or commit of a Hugging Face id.
        tokenizer: replaces the tokenizer of the checkpoint.
        trust_remote_code: let a Hugging Face repository run its own code.
        allow_hooks: allow foreign hooks on the model, now or later. They change results, which name them in their provenance
            (`hooks`). By default such a model is refused.
        ungrouped: give each query head a key/value head of its own, as MIB counts edges; see `circuits.model_ungrouped`.
        memory: what computations may need besides the weights, such as `4GB`; it bounds batches. None: 60% of what is free.

    Raises:
        InputError: an unknown dtype or device, an invalid `device_map`, hooks that are not allowed, or a model that cannot be ungrouped.
        ModelError: the model cannot be found, is not supported, its files lead out of their directory or do not have the sizes
            that its configuration states, or its graph is not exact.

    >>> model = load_model("smollm2-135m")  # doctest: +SKIP
    >>> model.graph.n_edges  # doctest: +SKIP
    70651
    """
    warn_if_busy(torch.get_num_threads())
    check_map_belongs(model, device, device_map)
    chosen_dtype = None if dtype is None else choose_dtype(dtype)
    request = Request(chosen_dtype, choose_device(device), device_map, revision, trust_remote_code, ungrouped)
    bridge, name, own_tokenizer = find_bridge(model, request)
    named = isinstance(model, str | Path)
    architecture, report = _checked(bridge, name, named, allow_hooks, from_files(model) and not trust_remote_code)
    check_ungrouped(architecture.graph, name, ungrouped)
    known = named and tokenizer is None and isinstance(device_map, str | None)
    origin = _loaded_by(name, device, device_map, trust_remote_code, ungrouped) if known else None
    loaded = Model(
        bridge, architecture, tokenizer or own_tokenizer, name, revision, report, bool(bridge.compatibility_mode), origin,
        allow_hooks, None if memory is None else parse_memory(memory),
    )  # fmt: skip
    if isinstance(model, str) and model in zoo.names():
        _check_golden(loaded)
    return loaded


def _loaded_by(
    name: str, device: str, device_map: DeviceMap | None, trust_remote_code: bool, ungrouped: bool
) -> dict[str, Any]:
    """`Model.loaded_by`."""
    asked = {"name": name, "device": device, "device_map": device_map, "trust_remote_code": trust_remote_code}
    return asked | ({"ungrouped": True} if ungrouped else {})


def _checked(
    bridge: TransformerBridge, name: str, named: bool, allow_hooks: bool, remember_check: bool
) -> tuple[Architecture, CheckReport]:
    """Checks that a bridge can be used and that its graph is exact."""
    with held(bridge, name) as here:
        if not allow_hooks:
            refuse_hooks(here.foreign_hooks, name)
        check_weights_usable(here.modules, name)
        with model_errors(name) if named else nullcontext():
            architecture = describe(bridge)
            key = check_key(weights_hash(bridge), bridge) if remember_check and not here.foreign_hooks else None
            if key is not None and (report := remembered(key)) is not None:
                return architecture, report
            with inference_state(bridge):
                report = check(architecture, name)
            if key is not None:
                remember(key, report)
            return architecture, report


def check_map_belongs(model: object, device: str, device_map: DeviceMap | None, here: bool = True) -> None:
    """Refuses a device map that cannot be followed (`here`: on this machine), or does not go with this model and device."""
    if device_map is None:
        return
    if device != "auto":
        raise InputError(f"both device {device!r} and a device_map are given; give one of them")
    if not from_files(model):
        what = model if isinstance(model, str) else f"a {type(model).__name__}"
        raise InputError(
            f"device_map applies only to models that are loaded from files, and {what} is not; leave it out"
        )
    check_device_map(device_map, here=here)


def from_files(model: object) -> bool:
    """Whether a model is given by the name of a checkpoint or a directory, and not as an object or by the name of a built model."""
    return isinstance(model, str | Path) and not (isinstance(model, str) and plugins.names_built_model(model))


def _check_golden(model: Model) -> None:
    """Compares the tokenizer and the logits of a model with a short name with known values."""
    from circuits.engine.hooks import TokenBatch, run

    def logits(ids: list[int]) -> torch.Tensor:
        tokens = torch.tensor([ids], device=model.device)
        position = torch.tensor([len(ids) - 1], device=model.device)
        with torch.no_grad():
            return run(model.architecture, TokenBatch(tokens, position))[0]

    if model.dtype in (torch.float32, torch.float64):
        zoo.check_golden(model.name, logits, lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"])
