"""Single nodes as functions: a head's z from its q, k and v inputs, an MLP's write, the logits.

The functions combine the model's own parts (norms, `W_Q` …, query and key norms, rotation tables from a run, MLPs,
unembedding) as `AttentionRule` and `MlpFormula` describe. `NodeFunctions.agrees` recomputes every node of a recorded
run to check that this reproduces the model.
"""

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.mlp import MlpFormula, mlp_formula
from circuits.engine.recorded_run import RecordedRun
from circuits.engine.rotary import rotated
from circuits.engine.token_line import Line


class NodeFunctions:
    """A model's nodes as functions of their readers' inputs, on pairs laid out as a line.

    Inputs have a leading axis of rows, which are variants of the same line. They cover all its tokens or its last ones.
    """

    def __init__(
        self,
        architecture: Architecture,
        line: Line,
        run: RecordedRun,
        tokens: Int[Tensor, " d_out"] | None = None,
    ) -> None:
        """
        Args:
            architecture: the model.
            line: the pairs.
            run: their clean run, joined to the line.
            tokens: compute the logits of these tokens only; None: all.
        """
        self.architecture, self.line, self.run, self.tokens = architecture, line, run, tokens
        self._weights: dict[tuple[int, str], tuple[Tensor, Tensor | None]] = {}
        self._formulas: dict[int, MlpFormula | None] = {}

    @cached_property
    def _unembedding(self) -> tuple[Float[Tensor, "d_model d_out"], Float[Tensor, " d_out"]]:
        """Weight and bias for `tokens`."""
        unembed = self.architecture.bridge.unembed
        return unembed.W_U[:, self.tokens].contiguous(), unembed.b_U[self.tokens]

    def projected(
        self, layer: int, part: str, head: int, x: Float[Tensor, "row token d_model"], start: int
    ) -> Float[Tensor, "row token d_head"]:
        """A head's query, key or value after norm and rotation, as attention uses it.

        Args:
            layer, part, head: the reader; for k and v, `head` counts key/value heads.
            x: the reader's input, from token `start` of the line on.
            start: index of that token.
        """
        block = self.architecture.blocks[layer]
        weight, bias = self._projection(layer, part)
        y = block.attn_norm(x) @ weight[head]
        if bias is not None:
            y.add_(bias[head])
        if part == "v":
            return y
        norm = block.rule.q_norm if part == "q" else block.rule.k_norm
        y = y if norm is None else norm(y)
        tables = self.run.tables[layer]
        if tables is None:
            return y
        return rotated(y, tables[0][:, start:], tables[1][:, start:], block.rule.adjacent)

    def with_past(
        self, layer: int, part: str, head: int, y: Float[Tensor, "row token d_head"]
    ) -> Float[Tensor, "row pair key d_head"]:
        """Keys or values of all tokens by pair, after those of the prefix."""
        slots, past = self.line.to_slots(y), self.run.past[layer]
        if past is None:
            return slots
        front = past[0 if part == "k" else 1][:, head].to(y.dtype)
        return torch.cat([front.expand(len(y), *front.shape), slots], dim=2)

    def mixed(
        self,
        layer: int,
        q: Float[Tensor, "#row token d_head"],
        k: Float[Tensor, "#row pair key d_head"],
        v: Float[Tensor, "#row pair key d_head"],
    ) -> Float[Tensor, "rows token d_head"]:
        """A head's z for all queries or the answers', from all keys and values; an input may have one row for all."""
        rule, q_slots = self.architecture.blocks[layer].rule, self.line.to_slots(q)
        scores = (q_slots * rule.scale) @ k.transpose(-1, -2)
        if rule.softcap is not None:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        hidden = self.line.hidden(q_slots.shape[2], rule.window)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        return self.line.from_slots(scores.softmax(-1) @ v)

    def head_write(
        self, layer: int, head: int, z: Float[Tensor, "row token d_head"]
    ) -> Float[Tensor, "row token d_model"]:
        """A head's write into the residual stream."""
        write = z @ self._projection(layer, "o")[0][head]
        scale = self.architecture.blocks[layer].scale
        return write if scale == 1.0 else write * scale

    def mlp(self, layer: int, x: Float[Tensor, "row token d_model"]) -> Float[Tensor, "row token d_model"]:
        """An MLP's write."""
        block = self.architecture.blocks[layer]
        if layer not in self._formulas:
            self._formulas[layer] = mlp_formula(block.module.mlp)
        formula, normed = self._formulas[layer], block.mlp_norm(x)
        write = block.module.mlp(normed) if formula is None else formula(normed.flatten(0, 1)).reshape(x.shape)
        return write if block.scale == 1.0 else write * block.scale

    def logits(self, x: Float[Tensor, "row pair d_model"]) -> Float[Tensor, "row pair d_out"]:
        """Logits of `tokens` from the end of the residual stream."""
        normed = self.architecture.final_norm(x)
        if self.tokens is None:
            return self.architecture.bridge.unembed(normed)
        weight, bias = self._unembedding
        return normed @ weight + bias

    def behind(self, same: Bool[Tensor, " token"]) -> tuple["NodeFunctions", Int[Tensor, " kept"]]:
        """The nodes on a shorter line, and the indices of the kept tokens; see `Line.behind`."""
        line, kept = self.line.behind(same)
        if len(kept) == len(self.line):
            return self, kept
        past = tuple(
            (
                self._all_keys(block.layer, "k")[:, :, : line.n_past],
                self._all_keys(block.layer, "v")[:, :, : line.n_past],
            )
            for block in self.architecture.blocks
        )
        return NodeFunctions(self.architecture, line, self.run.at(kept, past), self.tokens), kept

    def _all_keys(self, layer: int, part: str) -> Float[Tensor, "pair kv_head key d_head"]:
        """The clean run's keys or values, of the past and the line."""
        x = self.run.attention_in[layer]
        heads = range(self.architecture.n_kv_heads)
        return torch.cat(
            [self.with_past(layer, part, head, self.projected(layer, part, head, x, 0)) for head in heads]
        ).transpose(0, 1)

    def agrees(self, limit: float) -> bool:
        """Whether recomputing every node of the recorded run reproduces it, up to `limit` times the largest entry."""
        wanted = self.run.logits if self.tokens is None else self.run.logits[:, self.tokens]
        try:
            pairs = [(self.logits(self.run.final[:, self.line.answers :])[0], wanted)]
            for layer in range(len(self.architecture.blocks)):
                pairs += self._layer_again(layer)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError):
            return False  # the rule does not fit the model
        return all(
            got.shape == wanted.shape and bool((got - wanted).abs().max() <= limit * wanted.abs().max())
            for got, wanted in pairs
        )

    def _layer_again(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        """(computed, recorded) of a layer's heads and its MLP."""
        architecture, run = self.architecture, self.run
        group = architecture.n_heads // architecture.n_kv_heads
        x, pairs = run.attention_in[layer], []
        for head in range(architecture.n_heads):
            q = self.projected(layer, "q", head, x, 0)
            k, v = (
                self.with_past(layer, part, head // group, self.projected(layer, part, head // group, x, 0))
                for part in "kv"
            )
            pairs.append((self.mixed(layer, q, k, v), run.writes.heads[layer][:, :, head]))
        stream, write = run.mlp_in[layer], run.writes.mlps[layer]
        if stream is not None and write is not None:
            pairs.append((self.mlp(layer, stream), write))
        return pairs

    def _projection(self, layer: int, part: str) -> tuple[Tensor, Tensor | None]:
        if (layer, part) not in self._weights:
            block = self.architecture.blocks[layer]
            if part == "o":
                self._weights[layer, part] = block.output_projection, None
            else:
                weight, bias = block.projection(part), block.projection_bias(part)
                self._weights[layer, part] = weight, None if bias is None else bias.reshape(len(weight), -1)
        return self._weights[layer, part]
