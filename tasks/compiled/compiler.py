"""A small compiler: from named spaces of the residual stream, and the heads and MLPs between them, to weights.

Every token has its one-hot vector in the space `token`, every position in `position`; `one` is 1 everywhere, and only decoys
read `junk`. A head compares two spaces and copies a third into a fourth; an MLP is a layer of rectified sums between spaces. All
other heads and MLPs are decoys: their random weights read everything and write into `junk`.

Constants come from biases that belong to no writer (`b_Q`, `b_in`, and the attention's `b_O`, which makes `one`), so that they
stay under every ablation; there is no `b_V` and no `b_out`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import TransformerBridge, TransformerBridgeConfig
from transformer_lens.model_bridge.sources import boot_native

from circuits.errors import InputError

STRENGTH = 30.0
"""Attention score of a match, in nats: other positions get e^-30 = 1e-13 of the attention."""
JUNK = 8
DTYPE = torch.float64


@dataclass(frozen=True, eq=False)
class Head:
    """A head: position i attends to matching positions j and copies from them.

        score(i, j) = STRENGTH · (x_i[query] @ match + bias) · x_j[key]        output_i = Σ_j pattern(i, j) x_j[value] @ copy

    Attributes:
        value, output, copy: the space copied, the space written, and the map between them.
        key: the space compared; None: uniform attention.
        query, match: the space compared with `key`, and the map between them; None: the same for all positions.
        bias: the values of `key` that all positions attend to.
    """

    value: str
    output: str
    copy: Float[Tensor, "value output"]
    key: str | None = None
    query: str | None = None
    match: Float[Tensor, "query key"] | None = None
    bias: Float[Tensor, " key"] | None = None

    @property
    def width(self) -> int:
        """The required head size."""
        compared = next((part.shape[-1] for part in (self.match, self.bias) if part is not None), 1)
        return max(compared, min(self.copy.shape))


@dataclass(frozen=True, eq=False)
class Mlp:
    """An MLP: relu(Σ_space x[space] @ reads[space] + bias) @ writes[space].

    Attributes:
        reads: space -> weights in.
        bias: of the neurons.
        writes: space -> weights out.
    """

    reads: Mapping[str, Float[Tensor, "_ neuron"]]
    bias: Float[Tensor, " neuron"]
    writes: Mapping[str, Float[Tensor, "neuron _"]]


@dataclass(frozen=True, eq=False)
class Network:
    """The input of the compiler.

    Attributes:
        d_vocab: number of tokens; the size of the space `token`.
        n_ctx: the longest prompt; the size of the space `position`.
        spaces: further spaces and their sizes.
        heads: by name (`a0.h1`); every other head is a decoy.
        mlps: by name (`m0`); every other MLP is a decoy.
        unembed: space -> its contribution to the logits.
        n_layers, n_heads: of the whole model.
        seed: of the decoys.
    """

    d_vocab: int
    n_ctx: int
    spaces: Mapping[str, int]
    heads: Mapping[str, Head]
    unembed: Mapping[str, Float[Tensor, "_ token"]]
    mlps: Mapping[str, Mlp] = field(default_factory=dict)
    n_layers: int = 2
    n_heads: int = 4
    seed: int = 0

    @property
    def slices(self) -> dict[str, slice]:
        """The entries of each space in the residual stream."""
        sizes = {"token": self.d_vocab, "position": self.n_ctx, "one": 1, "junk": JUNK, **self.spaces}
        places, start = {}, 0
        for name, size in sizes.items():
            places[name] = slice(start, start + size)
            start += size
        return places

    @property
    def d_model(self) -> int:
        return max(place.stop for place in self.slices.values())

    @property
    def d_head(self) -> int:
        return max([4, *(head.width for head in self.heads.values())])

    @property
    def d_mlp(self) -> int:
        return max([16, *(len(mlp.bias) for mlp in self.mlps.values())])


def compile_network(network: Network) -> TransformerBridge:
    """The network as a native model of TransformerLens: ReLU, no norm, float64.

    Raises:
        InputError: the network names a head, an MLP or a space that does not exist.
    """
    weights = _Weights(network)
    nodes = [f"a{layer}.h{head}" for layer in range(network.n_layers) for head in range(network.n_heads)]
    for name in network.heads.keys() - set(nodes):
        raise InputError(f"the network has no head {name!r} ({network.n_layers} layers of {network.n_heads} heads)")
    for name in network.mlps.keys() - {f"m{layer}" for layer in range(network.n_layers)}:
        raise InputError(f"the network has no MLP {name!r} ({network.n_layers} layers)")
    for index, name in enumerate(nodes):
        layer, head = divmod(index, network.n_heads)
        weights.add_head(layer, head, network.heads.get(name))
    for layer in range(network.n_layers):
        weights.add_mlp(layer, network.mlps.get(f"m{layer}"))
    return weights.bridge()


class _Weights:
    """The weights of a network, filled in step by step."""

    def __init__(self, network: Network) -> None:
        n, layers, heads = network, network.n_layers, network.n_heads
        self.network, self.places = network, network.slices
        self.generator = torch.Generator().manual_seed(network.seed)
        d, d_head, d_mlp = n.d_model, n.d_head, n.d_mlp
        self.q, self.k, self.v = (torch.zeros(layers, heads, d, d_head, dtype=DTYPE) for _ in range(3))
        self.q_bias = torch.zeros(layers, heads, d_head, dtype=DTYPE)
        self.o = torch.zeros(layers, heads, d_head, d, dtype=DTYPE)
        self.w_in, self.b_in = torch.zeros(layers, d, d_mlp, dtype=DTYPE), torch.zeros(layers, d_mlp, dtype=DTYPE)
        self.w_out = torch.zeros(layers, d_mlp, d, dtype=DTYPE)

    def place(self, space: str) -> slice:
        if space not in self.places:
            raise InputError(f"the network has no space {space!r}; its spaces: {', '.join(self.places)}")
        return self.places[space]

    def add_head(self, layer: int, head: int, does: Head | None) -> None:
        q, k, v, o = (part[layer, head] for part in (self.q, self.k, self.v, self.o))
        if does is None:
            for part in (q, k, v):
                part[:] = 0.5 * self._random(*part.shape)
            o[:, self.place("junk")] = 0.3 * self._random(len(o), JUNK)
            return
        strength = STRENGTH * len(o) ** 0.5  # the model divides by the root of the head size
        if does.key is not None:
            place = self.place(does.key)
            k[place, : place.stop - place.start] = torch.eye(place.stop - place.start, dtype=DTYPE)
        if does.query is not None and does.match is not None:
            q[self.place(does.query), : does.match.shape[1]] = strength * does.match
        if does.bias is not None:
            self.q_bias[layer, head, : len(does.bias)] = strength * does.bias
        rows, columns = does.copy.shape
        if columns <= rows:
            v[self.place(does.value), :columns] = does.copy
            o[:columns, self.place(does.output)] = torch.eye(columns, dtype=DTYPE)
        else:
            v[self.place(does.value), :rows] = torch.eye(rows, dtype=DTYPE)
            o[:rows, self.place(does.output)] = does.copy

    def add_mlp(self, layer: int, does: Mlp | None) -> None:
        if does is None:
            self.w_in[layer] = self._random(*self.w_in[layer].shape)
            self.w_out[layer, :, self.place("junk")] = 0.3 * self._random(self.w_out.shape[1], JUNK)
            return
        n = len(does.bias)
        self.b_in[layer, :n] = does.bias
        for space, part in does.reads.items():
            self.w_in[layer, self.place(space), :n] = part
        for space, part in does.writes.items():
            self.w_out[layer, :n, self.place(space)] = part

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=DTYPE)

    def bridge(self) -> TransformerBridge:
        n = self.network
        bridge = boot_native(TransformerBridgeConfig(
            d_model=n.d_model, d_head=n.d_head, n_layers=n.n_layers, n_ctx=n.n_ctx, n_heads=n.n_heads, d_vocab=n.d_vocab,
            d_mlp=n.d_mlp, act_fn="relu", normalization_type=None, seed=0,
        )).double()  # fmt: skip
        with torch.no_grad():
            for parameter in bridge.parameters():
                parameter.zero_()
            _layer(bridge.embed).weight[:, self.place("token")] = torch.eye(n.d_vocab, dtype=DTYPE)
            _layer(bridge.pos_embed).weight[:, self.place("position")] = torch.eye(n.n_ctx, dtype=DTYPE)
            for layer, block in enumerate(bridge.blocks):
                self._fill(block, layer)
            _layer(bridge.blocks[0].attn.o).bias[self.place("one")] = 1
            for space, part in n.unembed.items():
                _layer(bridge.unembed).weight[:, self.place(space)] = part.T
        return bridge

    def _fill(self, block: Any, layer: int) -> None:
        """Linear layers hold their weights as [out, in], all heads in one."""
        attn = block.attn
        for part, weights in ((attn.q, self.q), (attn.k, self.k), (attn.v, self.v)):
            _layer(part).weight.copy_(weights[layer].transpose(1, 2).flatten(0, 1))
        _layer(attn.q).bias.copy_(self.q_bias[layer].flatten())
        _layer(attn.o).weight.copy_(self.o[layer].flatten(0, 1).T)
        into, out = _layer(getattr(block.mlp, "in")), _layer(block.mlp.out)
        into.weight.copy_(self.w_in[layer].T)
        into.bias.copy_(self.b_in[layer])
        out.weight.copy_(self.w_out[layer].T)


def _layer(part: Any) -> Any:
    """The torch layer inside a part of a bridge."""
    return part.original_component
