"""Predicts the memory that edge attribution needs on a model, from its configuration alone.

The model is built without weights (torch's `meta` device), and a forward pass without data shows what autograd would save. The
other tensors that `methods.edge_attribution` (one gradient, at the clean run) holds at the same time are counted from their shapes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from circuits.engine.gradient_sum import SLOTS_AT_ONCE
from circuits.errors import InputError, ModelError
from circuits.files.untrusted import shown
from circuits.graph.graph import Graph
from circuits.measure.contraction import tiles
from circuits.model_files import find_directory
from circuits.model_sizes import LARGEST_SIZE, MOST_LAYERS, Budget, built_within, checked_config
from circuits.plain_torch import plain_torch
from circuits.question.batch_memory import default_batch_size
from circuits.shown import Shown
from circuits.stats.bootstrap import rows_kept


@dataclass(frozen=True, repr=False)
class MemoryNeed(Shown):
    """Bytes that edge attribution holds at its peak, without those of Python and its libraries.

    Attributes:
        graph: the model's graph.
        n_parameters: number of parameters.
        batch_size: pairs at a time.
        weights: the model's weights.
        passes: the larger of two moments of a batch: at the end of the forward pass, the tensors saved by autograd and the
            writers' outputs; after the backward pass, the gradients at readers' inputs and the writers of both runs.
        contraction: writers and readers' gradients of one tile, and the sums up to then.
        scores: effects of the batch's prompts, their sums, and the stored rows of single prompts.
    """

    graph: Graph
    n_parameters: int
    batch_size: int
    weights: int
    passes: int
    contraction: int
    scores: int

    @property
    def peak(self) -> int:
        """The total peak: passes and contraction follow each other."""
        return self.weights + max(self.passes, self.contraction) + self.scores

    def to_dict(self) -> dict[str, int]:
        """JSON values."""
        parts = ("n_parameters", "batch_size", "weights", "passes", "contraction", "scores", "peak")
        return {"edges": self.graph.n_edges, **{part: getattr(self, part) for part in parts}}


@plain_torch
def memory_need(
    config: Any, *, tokens: int, n: int = 64, batch_size: int | None = None, dtype: torch.dtype = torch.float32
) -> MemoryNeed:
    """Predicts the memory that edge attribution needs.

    Args:
        config: configuration of a Hugging Face causal language model.
        tokens: tokens of a prompt after the shared prefix.
        n: number of pairs.
        batch_size: pairs at a time; None: the default on a CPU.
        dtype: dtype of the weights.

    Raises:
        InputError: a number is below one.
        ModelError: the configuration is not that of a causal language model, or the model cannot run without data.
    """
    for name, value in (("tokens", tokens), ("n", n), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    shape = _shape(config, tokens)
    graph = shape.graph
    model = without_weights(config, dtype)
    wide = torch.promote_types(dtype, torch.float32).itemsize
    if batch_size is None:
        batch_size = default_batch_size(graph.n_writers * shape.d_model * wide, tokens, "cpu")
    batch_size = min(batch_size, n)
    saved = saved_by_autograd(model, batch_size, tokens, shape.d_model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return MemoryNeed(
        graph=graph,
        n_parameters=parameters,
        batch_size=batch_size,
        weights=parameters * dtype.itemsize,
        passes=shape.passes(batch_size, dtype.itemsize, wide, saved),
        contraction=shape.contraction(batch_size, wide, dtype.itemsize < wide),
        scores=shape.scores(batch_size, n, wide),
    )


def read_config(name: str, revision: str | None = None) -> Any:
    """The configuration of a cached short name, a directory, or a Hugging Face id; none of its code is run.

    Raises:
        ModelError: the configuration cannot be read.
    """
    from transformers import AutoConfig

    from circuits import zoo

    path = str(zoo.path(name)) if name in zoo.names() else name
    try:
        checked_config(find_directory(path, revision))
        # If left out, transformers asks the user, and runs that code if the answer is "y".
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except InputError:
        raise
    except Exception as problem:  # a file from an unknown source can cause any error in a library
        raise ModelError(f"cannot read the configuration of {name!r}: {_first_line(problem)}") from None


def _first_line(problem: Exception) -> str:
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)


def _shape(config: Any, tokens: int) -> "_Shape":
    """The sizes in a configuration, after checking that a model of these sizes can be built in time."""
    try:
        text = config.get_text_config()
        heads = text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        d_head = getattr(text, "head_dim", None) or text.hidden_size // heads
        layers, d_model = text.num_hidden_layers, text.hidden_size
    except (AttributeError, TypeError, ZeroDivisionError) as problem:
        raise ModelError(f"a {type(config).__name__} does not give its sizes: {_first_line(problem)}") from None
    for what, size in (("layers", layers), ("heads", heads), ("key/value heads", kv_heads), ("d_model", d_model)):
        if type(size) is not int or not 1 <= size <= LARGEST_SIZE:
            raise ModelError(
                f"the configuration's number of {what} must be from 1 to {LARGEST_SIZE:,}, got {shown(size)}"
            )
    if layers > MOST_LAYERS:
        raise ModelError(f"the configuration has {layers:,} layers; models of up to {MOST_LAYERS:,} can be described")
    return _Shape(Graph(layers, heads, kv_heads, (True,) * layers, parallel=False), d_model, d_head, tokens)


@dataclass(frozen=True)
class _Shape:
    """Sizes of the tensors: the properties count entries per position of one prompt, the methods bytes."""

    graph: Graph
    d_model: int
    d_head: int
    tokens: int

    @property
    def slots(self) -> int:
        """Queries, keys and values of a layer."""
        return self.graph.n_heads + 2 * self.graph.n_kv_heads

    @property
    def writes(self) -> int:
        """`engine.capture.Writes`: the embedding, and for each layer z and the MLP's write."""
        layers, heads = self.graph.n_layers, self.graph.n_heads
        return self.d_model + layers * (heads * self.d_head + self.d_model)

    @property
    def gradients(self) -> int:
        """At queries, keys, values, MLPs and the end of the residual stream."""
        return self.graph.n_layers * (self.slots * self.d_head + self.d_model) + self.d_model

    @property
    def streams(self) -> int:
        """The inputs of the norms."""
        return 2 * self.graph.n_layers * self.d_model

    def passes(self, batch: int, narrow: int, wide: int, saved: int) -> int:
        places = batch * self.tokens
        # In float32 and wider, norms save the streams without a copy.
        streams = self.streams if narrow < wide else 0
        forward = saved + places * narrow * (self.writes + streams)
        recorded = places * narrow * (2 * self.writes + self.gradients + self.streams)
        return max(forward, recorded + self._summed(batch, wide))

    def _summed(self, batch: int, wide: int) -> int:
        """A sum of gradients with its directions, and the writers' difference."""
        return batch * self.tokens * wide * (self.gradients + self.streams + self.writes)

    def contraction(self, batch: int, wide: int, cast: bool) -> int:
        graph = self.graph
        rows, positions = next(tiles(batch, self.tokens, graph.n_writers * self.d_model * wide))
        prompts = min(rows.stop, batch)
        places = prompts * min(positions.stop, self.tokens)
        readers = self.slots + (1 if self.slots >= SLOTS_AT_ONCE else SLOTS_AT_ONCE)
        along = 2 * graph.n_layers * (graph.n_writers + 2 * self.d_model)
        tile = places * wide * ((graph.n_writers + readers) * self.d_model + along)
        weights = self.slots * self.d_head * self.d_model * wide if cast else 0
        return self._summed(batch, wide) + tile + weights + prompts * graph.n_writers * graph.n_readers * wide

    def scores(self, batch: int, n: int, wide: int) -> int:
        matrix = self.graph.n_writers * self.graph.n_readers
        return matrix * (batch * (2 * wide + 2 * 8) + 2 * 8) + rows_kept(self.graph.n_edges, n) * self.graph.n_edges * 4


def without_weights(config: Any, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModelForCausalLM

    what = f"a {type(config).__name__}"
    try:
        with torch.device("meta"), built_within(Budget(what)):
            # If left out, transformers asks whether to run the code that a configuration names.
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation="eager", dtype=dtype, trust_remote_code=False
            )
    except InputError:
        raise
    except Exception as problem:  # a configuration can cause any error
        raise ModelError(f"no causal language model can be built from {what}: {_first_line(problem)}") from None
    return model.eval().requires_grad_(False)


def saved_by_autograd(model: nn.Module, batch: int, tokens: int, d_model: int) -> int:
    """Bytes saved by one forward pass with autograd, without the weights."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage()._cdata not in weights:
            saved[x.untyped_storage()._cdata] = x
        return x

    like = next(model.parameters())
    embedding = like.new_zeros(batch, tokens, d_model).requires_grad_()
    mask = like.new_zeros(batch, 1, tokens, tokens)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model(inputs_embeds=embedding, attention_mask=mask, use_cache=False, logits_to_keep=1)
    except Exception as problem:  # a model's own code can cause any error
        raise ModelError(f"a {type(model).__name__} cannot be run without numbers: {_first_line(problem)}") from None
    return sum(x.untyped_storage().nbytes() for x in saved.values())
