"""Constants that replace ablated nodes and change the model least: the training behind the ablation `optimal` (Li & Janson 2024, 2409.09951).

Every node has one constant a, the same on all prompts and at all positions: a head its z (its write, under a post-norm), an MLP and the
embedding what they write. Adam minimises, over the clean prompts and random sets S of nodes,

    mean KL(model(x) ‖ model(x with every node of S at its constant))

Each row of a step draws its own S: first a probability uniform on (0, 1), then every node with that probability. Constants start at the
means. A step is the learning rate times the node's own standard deviation, so one rate fits all nodes.

Departure from the paper: there, constants are trained anew for every component that is ablated alone, or for every circuit. Here one set of
constants serves every method and every circuit, from single nodes to all nodes together, and fits none of them as closely.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.capture import Writes
from circuits.engine.hooks import Hook, TokenBatch, run
from circuits.errors import InputError
from circuits.files.atomic import write_tensors
from circuits.files.untrusted import open_tensors

if TYPE_CHECKING:
    from circuits.model import Model

BATCH = 8
"""Prompts per step; fixed, so that constants do not depend on the batch size of a question."""
LEARNING_RATE = 0.03
SCHEMA = "mech-circuits constants 1"
SETS = 4
"""Random sets for each prompt, by which the trained constants are compared with the means."""


@dataclass(frozen=True, eq=False)
class Constants:
    """Trained constants.

    Attributes:
        values: one per node, [1, 1, …] in the form of `Writes`.
        loss, mean_loss: mean KL over random sets, with these constants and with the means.
    """

    values: Writes
    loss: float
    mean_loss: float

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file (JSON header, no pickle)."""
        header = {"schema": SCHEMA, "loss": repr(self.loss), "mean_loss": repr(self.mean_loss)}
        write_tensors({name: value.detach().cpu() for name, value in _named(self.values)}, path, header)

    @classmethod
    def load(cls, path: str | Path) -> "Constants":
        """Reads what `save` wrote; InputError for any other file."""
        with open_tensors(path, "constants") as (file, header):
            if header.get("schema") != SCHEMA:
                raise InputError(f"it is not a file of constants (its schema is {header.get('schema')!r})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            layers = sum(name.startswith("heads.") for name in tensors)
            heads = tuple(tensors[f"heads.{layer}"] for layer in range(layers))
            mlps = tuple(tensors.get(f"mlps.{layer}") for layer in range(layers))
            values = Writes(tensors["embedding"], heads, mlps)
            if len(list(_named(values))) != len(tensors):
                raise InputError("it holds constants of unknown nodes")
            for name, tensor in tensors.items():
                if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                    raise InputError(f"{name} is not finite")
            return cls(values, float(header["loss"]), float(header["mean_loss"]))

    def fitted(self, means: Writes) -> Writes:
        """The constants in dtype and device of a model whose means have these shapes.

        Raises:
            InputError: they belong to another model.
        """
        own, wanted = dict(_named(self.values)), dict(_named(means))
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in wanted.items()}:
            raise InputError("the constants of the ablation optimal belong to another model")
        return means.combine(self.values, lambda mean, value: value.to(mean))


def _named(writes: Writes) -> Iterable[tuple[str, Tensor]]:
    yield "embedding", writes.embedding
    yield from ((f"heads.{layer}", heads) for layer, heads in enumerate(writes.heads))
    yield from ((f"mlps.{layer}", mlp) for layer, mlp in enumerate(writes.mlps) if mlp is not None)


def train_constants(
    model: "Model", batches: Sequence[TokenBatch], means: Writes, spreads: Writes, steps: int, seed: int
) -> Constants:
    """Trains constants; call it within `inference_state`.

    Args:
        model: the model.
        batches: all clean prompts.
        means: every node's mean, in the form of `Writes`.
        spreads: every node's standard deviation, one number for each writer.
        steps, seed: number of steps, and random seed of the prompts and sets.
    """
    architecture, generator = model.architecture, torch.Generator().manual_seed(seed)
    clean = [_log_p(run(architecture, batch)) for batch in batches]
    offsets = means.map(lambda x: torch.zeros_like(x, dtype=torch.float32).requires_grad_())
    parameters = [offset for _, offset in _named(offsets)]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    sizes = torch.tensor([float(len(batch)) for batch in batches])

    def constants() -> Writes:
        moved = offsets.combine(spreads, torch.mul)
        return means.combine(moved, lambda mean, move: mean + move.to(mean.dtype))

    for _ in range(steps):
        at = int(torch.multinomial(sizes, 1, generator=generator))
        kept = draw_kept(architecture.graph.n_writers, len(batches[at]), generator)
        with torch.enable_grad():
            loss = divergence(architecture, batches[at], clean[at], constants(), kept).mean()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    trained = constants().map(Tensor.detach)
    loss, mean_loss = (_judged(architecture, batches, clean, values, seed) for values in (trained, means))
    return Constants(trained if loss < mean_loss else means, min(loss, mean_loss), mean_loss)


def _judged(
    architecture: Architecture, batches: Sequence[TokenBatch], clean: Sequence[Tensor], values: Writes, seed: int
) -> float:
    """The mean loss over all prompts, with the same random sets for all constants."""
    generator = torch.Generator().manual_seed(seed + 1)
    losses = []
    for batch, log_p in zip(batches, clean, strict=True):
        for _ in range(SETS):
            kept = draw_kept(architecture.graph.n_writers, len(batch), generator)
            with torch.no_grad():
                losses.append(divergence(architecture, batch, log_p, values, kept))
    return float(torch.cat(losses).double().mean())


def draw_kept(n_writers: int, rows: int, generator: torch.Generator) -> Bool[Tensor, "row writer"]:
    """Which writers each row keeps: each with a probability that is uniform on (0, 1) and the row's own."""
    share = torch.rand(rows, 1, generator=generator)
    return torch.rand(rows, n_writers, generator=generator) < share


def divergence(
    architecture: Architecture,
    batch: TokenBatch,
    clean: Float[Tensor, "read d_vocab"],
    constants: Writes,
    kept: Bool[Tensor, "row writer"],
) -> Float[Tensor, " read"]:
    """KL from the clean log probabilities, with all writers that a row does not keep at their constants."""
    logits = run(architecture, batch, ablating(architecture, constants, kept.to(batch.tokens.device)))
    return F.kl_div(_log_p(logits), clean, log_target=True, reduction="none").sum(-1)


def _log_p(logits: Float[Tensor, "read d_vocab"]) -> Float[Tensor, "read d_vocab"]:
    """Log probabilities in float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def ablating(architecture: Architecture, constants: Writes, kept: Bool[Tensor, "row writer"]) -> list[Hook]:
    """Hooks that hold writers at constants, wherever they are read."""
    graph = architecture.graph
    hooks: list[Hook] = [(architecture.blocks[0].resid_pre, _held(kept[:, :1, None], constants.embedding))]
    for block in architecture.blocks:
        heads = kept[:, None, graph.head_writers(block.layer), None]
        hooks += _heads_held(block, heads, constants.heads[block.layer])
        mlp = constants.mlps[block.layer]
        if block.mlp_out is not None and mlp is not None:
            at = graph.mlp_writer(block.layer)
            hooks.append((block.mlp_out, _held(kept[:, at : at + 1, None], mlp)))
    return hooks


def _held(kept: Tensor, constant: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.where(kept.to(x.device), x, constant.to(x))


def _heads_held(block: Block, kept: Tensor, constant: Tensor) -> list[Hook]:
    if block.linear_heads:
        return [(block.z, _held(kept, constant))]
    written: list[Tensor] = []

    def note(z: Tensor) -> None:
        written[:] = [block.head_writes(z)]

    def replace(out: Tensor) -> Tensor:
        return out + torch.where(kept.to(out.device), 0.0, constant.to(out) - written[0]).sum(2)

    return [(block.z, note), (block.attn_out, replace)]
