"""Single nodes as functions: a head's z from its q, k and v inputs, an MLP's write, the logits.

The functions combine the model's own parts (norms, `W_Q` …, query and key norms, rotation tables from a run, MLPs,
unembedding) as `AttentionRule` and `MlpFormula` describe. `NodeFunctions.agrees` recomputes every node of a recorded
run to check that this reproduces the model.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.incremental.attention_rules import variants
from circuits.engine.mlp import MlpFormula, mlp_formula
from circuits.engine.norms import Norm, describe_norm
from circuits.engine.recorded_run import RecordedRun
from circuits.engine.rotary import rotated, stored_tables
from circuits.engine.token_line import Line
from circuits.engine.unembedding import behind_unembedding, columns


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
        self._norms: dict[tuple[int, str], Norm | None] = {}
        self._by_position: tuple[Tensor, Tensor] | None = None
        self.rules = [block.rule for block in architecture.blocks]

    @cached_property
    def _unembedding(self) -> tuple[Float[Tensor, "d_out d_model"], Float[Tensor, " d_out"]]:
        """Weight and bias for `tokens`."""
        return columns(self.architecture, self.run.final, self.tokens)

    def projected(
        self, layer: int, part: str, heads: Sequence[int], xs: Sequence[Float[Tensor, "#row token d_model"]], start: int
    ) -> list[Float[Tensor, "row token d_head"]]:
        """Heads' queries, keys or values after norm and rotation, as attention uses them.

        Args:
            layer, part, heads: the readers; for k and v, `heads` counts key/value heads. All of the layer, if one norm is over all
                heads (`joint_norm`).
            xs: the readers' inputs, from token `start` of the line on.
            start: index of that token.
        """
        ys = [self._linear(layer, part, head, x) for head, x in zip(heads, xs, strict=True)]
        if part == "v":
            return ys
        norm, tables = self._norm(layer, part), self._tables(layer)
        if norm is not None and self.joint_norm(layer, part):
            together = torch.cat(torch.broadcast_tensors(*ys), dim=-1)
            ys = list(norm(together).split(ys[0].shape[-1], dim=-1))
        elif norm is not None:
            ys = [norm(y) for y in ys]
        if tables is None:
            return ys
        cos, sin = tables[0][:, start:], tables[1][:, start:]
        return [rotated(y, cos, sin, self.rules[layer].adjacent) for y in ys]

    def joint_norm(self, layer: int, part: str) -> bool:
        """Whether one norm is over the queries, or the keys, of all heads together."""
        if part == "v" or (norm := self._norm(layer, part)) is None or norm.weight is None:
            return False
        weight = self._projection(layer, part)[0]
        return norm.weight.shape[-1] == len(weight) * weight.shape[-1] != weight.shape[-1]

    def _linear(self, layer: int, part: str, head: int, x: Float[Tensor, "row token d_model"]) -> Tensor:
        weight, bias = self._projection(layer, part)
        y = self.architecture.blocks[layer].attn_norm(x) @ weight[head]
        return y if bias is None else y.add_(bias[head])

    def _norm(self, layer: int, part: str) -> Norm | None:
        """The norm of queries or keys."""
        if (layer, part) not in self._norms:
            rule = self.architecture.blocks[layer].rule
            own = rule.q_norm if part == "q" else rule.k_norm
            self._norms[layer, part] = None if own is None else describe_norm(own)
        return self._norms[layer, part]

    def _tables(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """cos and sin of the rotation at every token; None: no rotation."""
        if self.run.tables[layer] is not None:
            return self.run.tables[layer]
        stored = stored_tables(self.architecture.blocks[layer].attention.original_component)
        if stored is None:
            return None
        if self._by_position is None:  # the same in every layer
            at = self.line.positions
            cos, sin = (table[at.to(table.device)].to(at.device)[None] for table in stored)
            self._by_position = cos, sin
        return self._by_position

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
        head: int,
        q: Float[Tensor, "#row token d_head"],
        k: Float[Tensor, "#row pair key d_head"],
        v: Float[Tensor, "#row pair key d_head"],
    ) -> Float[Tensor, "rows token d_head"]:
        """A head's z for all queries or the answers', from all keys and values; an input may have one row for all."""
        return self.line.from_slots(self.attended(layer, head, self.line.to_slots(q), k, v))

    def attended(
        self,
        layer: int,
        head: int,
        q: Float[Tensor, "#row pair slot d_head"],
        k: Float[Tensor, "#row pair key d_head"],
        v: Float[Tensor, "#row pair key d_head"],
        at: Int[Tensor, "pair query"] | None = None,
    ) -> Float[Tensor, "rows pair query d_head"]:
        """`mixed` by pair and slot, for the queries of the last slots, or those of them at `at`."""
        rule, n_slots = self.rules[layer], q.shape[2]

        def of_queries(x: Shaped[Tensor, "*row pair slot last"]) -> Shaped[Tensor, "*row pair query last"]:
            return x if at is None else x.gather(-2, at[..., None].expand(*x.shape[:-2], at.shape[1], x.shape[-1]))

        scores = (of_queries(q) * rule.scale) @ k.transpose(-1, -2)
        if rule.softcap is not None:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        if rule.slopes is not None:
            distance = of_queries(self.line.distance(n_slots))
            scores = scores - float(rule.slopes[head]) * distance.to(scores.dtype)
        hidden = self.line.hidden(n_slots, rule.window)
        if hidden is not None:
            scores = scores.masked_fill(of_queries(hidden), -torch.inf)
        return scores.softmax(-1) @ v

    def head_write(
        self, layer: int, head: int, z: Float[Tensor, "row token d_head"]
    ) -> Float[Tensor, "row token d_model"]:
        """A head's write into the residual stream, before a norm behind attention."""
        write = z @ self._projection(layer, "o")[0][head]
        scale = self.architecture.blocks[layer].scale
        return write if scale == 1.0 or not self.architecture.blocks[layer].linear_heads else write * scale

    def normed_writes(
        self, layer: int, raw: Sequence[Float[Tensor, "#row token d_model"]]
    ) -> list[Float[Tensor, "#row token d_model"]]:
        """All heads' writes behind the norm that couples them: each at the scale of their sum."""
        block = self.architecture.blocks[layer]
        assert block.post_norm is not None
        total = raw[0]
        for write in raw[1:]:
            total = total + write
        if block.output_bias is not None:
            total = total + block.output_bias
        writes = block.post_norm.frozen_parts(total, raw)
        return writes if block.scale == 1.0 else [write * block.scale for write in writes]

    def mlp(self, layer: int, x: Float[Tensor, "row token d_model"]) -> Float[Tensor, "row token d_model"]:
        """An MLP's write."""
        block, normed = self.architecture.blocks[layer], self.architecture.blocks[layer].mlp_norm(x)
        formula = self._formula(layer)
        write = block.module.mlp(normed) if formula is None else formula(normed.flatten(0, 1)).reshape(x.shape)
        write = write if block.mlp_post_norm is None else block.mlp_post_norm(write)
        return write if block.scale == 1.0 else write * block.scale

    def _formula(self, layer: int) -> MlpFormula | None:
        """The MLP as a formula; if its module cannot be called alone, the one that gives the recorded run."""
        if layer not in self._formulas:
            block, x, write = self.architecture.blocks[layer], self.run.mlp_in[layer], self.run.writes.mlps[layer]
            known = None if x is None or write is None else (block.mlp_norm(x)[0], write[0])
            plain = block.mlp_post_norm is None and block.scale == 1.0
            self._formulas[layer] = mlp_formula(block.module.mlp, known if plain else None)
        return self._formulas[layer]

    def logits(self, x: Float[Tensor, "row pair d_model"]) -> Float[Tensor, "row pair d_out"]:
        """Logits of `tokens` from the end of the residual stream."""
        logits = F.linear(self.architecture.final_norm(x), *self._unembedding)
        return behind_unembedding(self.architecture)(logits)

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
        shorter = NodeFunctions(self.architecture, line, self.run.at(kept, past), self.tokens)
        shorter.rules, shorter._weights, shorter._norms = self.rules, self._weights, self._norms
        shorter._formulas = self._formulas
        return shorter, kept

    def _all_keys(self, layer: int, part: str) -> Float[Tensor, "pair kv_head key d_head"]:
        """The clean run's keys or values, of the past and the line."""
        heads = range(self.architecture.n_kv_heads)
        ys = self.projected(layer, part, heads, [self.run.attention_in[layer]] * len(heads), 0)
        return torch.cat([self.with_past(layer, part, *of_head) for of_head in zip(heads, ys, strict=True)]).transpose(
            0, 1
        )

    @torch.no_grad()
    def agrees(self, limit: float) -> bool:
        """Whether recomputing every node of the recorded run reproduces it, up to `limit` times the largest entry; finds each
        layer's rule of attention."""
        wanted = self.run.logits if self.tokens is None else self.run.logits[:, self.tokens]
        if not self._all_close(lambda: [(self.logits(self.run.final[:, self.line.answers :])[0], wanted)], limit):
            return False
        for block in self.architecture.blocks:
            for rule in variants(block.rule, self.architecture.n_heads):
                self.rules[block.layer] = rule
                if self._all_close(partial(self._attention_again, block.layer), limit):
                    break
            else:
                return False
            if not self._all_close(partial(self._mlp_again, block.layer), limit):
                return False
        return True

    @staticmethod
    def _all_close(again: Callable[[], list[tuple[Tensor, Tensor]]], limit: float) -> bool:
        """Whether (computed, recorded) are equal up to rounding; False if they cannot be computed."""
        try:
            return all(
                got.shape == wanted.shape and bool((got - wanted).abs().max() <= limit * wanted.abs().max())
                for got, wanted in again()
            )
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError):
            return False  # the rule does not fit the model

    def _attention_again(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        """(computed, recorded) of a layer's heads."""
        architecture, run, x = self.architecture, self.run, self.run.attention_in[layer]
        block, group = architecture.blocks[layer], architecture.n_heads // architecture.n_kv_heads
        if block.linear_heads and any(self.joint_norm(layer, part) for part in "qk"):
            raise ValueError("a norm couples heads that are separate elsewhere")
        q = self.projected(layer, "q", range(architecture.n_heads), [x] * architecture.n_heads, 0)
        k, v = self._all_keys(layer, "k"), self._all_keys(layer, "v")
        stored = run.writes.heads[layer] if block.linear_heads else run.z[layer]
        assert stored is not None
        pairs, z = [], []
        for head in range(architecture.n_heads):
            shared = head // group
            z.append(self.mixed(layer, head, q[head], k[None, :, shared], v[None, :, shared]))
            pairs.append((z[-1], stored[:, :, head]))
        if not block.linear_heads:
            writes = self.normed_writes(layer, [self.head_write(layer, head, own) for head, own in enumerate(z)])
            pairs += [(write, run.writes.heads[layer][:, :, head]) for head, write in enumerate(writes)]
        return pairs

    def _mlp_again(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        """(computed, recorded) of a layer's MLP."""
        stream, write = self.run.mlp_in[layer], self.run.writes.mlps[layer]
        return [] if stream is None or write is None else [(self.mlp(layer, stream), write)]

    def _projection(self, layer: int, part: str) -> tuple[Tensor, Tensor | None]:
        if (layer, part) not in self._weights:
            block = self.architecture.blocks[layer]
            if part == "o":
                self._weights[layer, part] = block.output_projection, None
            else:
                weight, bias = block.projection(part), block.projection_bias(part)
                self._weights[layer, part] = weight, None if bias is None else bias.reshape(len(weight), -1)
        return self._weights[layer, part]
