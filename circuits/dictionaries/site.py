"""Where a dictionary reads and writes: a place of the residual stream, or of what is added to it.

| site | what is decomposed | nodes of layer 3 |
|---|---|---|
| `mlp_out.3` | an MLP's write | `f:m3.17`, `e:m3` |
| `attn_out.3` | attention's write | `f:a3.17`, `e:a3` |
| `hook_z.3` | the heads' mixed values before `W_O`, one after the other | `f:z3.17`, `e:z3` |
| `resid_pre.3`, `resid_mid.3`, `resid_post.3` | the residual stream before, in the middle of, and after a block | `f:resid_pre3.17`, … |
| `transcoder.3`, that is `mlp_in.3->mlp_out.3` | an MLP's write, from its input after the norm | `f:m3.17`, `e:m3`, with a skip also `s:m3` |
| `mlp_normalized.3->mlp_out.3`, `resid_mid.3->mlp_out.3` | the same, from the normed stream before the norm's weight, or from the stream | the same |

TransformerLens' names (`blocks.3.hook_mlp_out`, `blocks.3.attn.hook_z`, `blocks.3.ln2.hook_normalized` …) and sparsify's
(`layers.3.mlp`, and `layers.3` for the stream after a block) mean the same sites.
"""

import re
from dataclasses import dataclass

from circuits.errors import InputError
from circuits.files.untrusted import shown

WRITES = {
    "mlp_out": "m", "attn_out": "a", "hook_z": "z", "resid_pre": "resid_pre", "resid_mid": "resid_mid", "resid_post": "resid_post",
}  # fmt: skip
"""What a dictionary can decompose, and how its nodes name it."""
READS = ("mlp_in", "mlp_normalized", "resid_mid")
"""What the encoder of a transcoder can read."""
TRANSFORMER_LENS = {
    "hook_resid_pre": "resid_pre", "hook_in": "resid_pre", "hook_resid_mid": "resid_mid", "ln2.hook_in": "resid_mid",
    "hook_mlp_in": "resid_mid", "hook_resid_post": "resid_post", "hook_out": "resid_post", "hook_mlp_out": "mlp_out",
    "mlp.hook_out": "mlp_projected", "mlp.hook_in": "mlp_in", "ln2.hook_normalized": "mlp_normalized",
    "hook_attn_out": "attn_out", "attn.hook_z": "hook_z",
}  # fmt: skip
SPARSIFY = {"": "resid_post", ".mlp": "mlp_projected"}
_OWN = re.compile(r"([a-z_]+)\.(\d{1,4})")
_HOOK = re.compile(r"blocks\.(\d{1,4})\.(.+)")
_MODULE = re.compile(r"(?:[a-z_]+\.)*(?:layers|h)\.(\d{1,4})(\.mlp)?")


@dataclass(frozen=True)
class DictionarySite:
    """The site of a dictionary.

    Attributes:
        layer: the block.
        writes: what is decomposed: a key of `WRITES`.
        reads: what the encoder reads; equal to `writes` for a sparse autoencoder.
        projected: the write was named by the MLP's output matrix. In a model with a norm after it, that is another place.
    """

    layer: int
    writes: str
    reads: str
    projected: bool = False

    @property
    def place(self) -> str:
        """The place in the names of its nodes: `m3`."""
        return f"{WRITES[self.writes]}{self.layer}"

    @property
    def is_transcoder(self) -> bool:
        """Whether the encoder reads something else than what is decomposed."""
        return self.reads != self.writes

    @property
    def name(self) -> str:
        """`mlp_out.3`, or `mlp_in.3->mlp_out.3`."""
        written = f"{self.writes}.{self.layer}"
        return f"{self.reads}.{self.layer}->{written}" if self.is_transcoder else written

    def __str__(self) -> str:
        return self.name


def parse_site(text: object) -> DictionarySite:
    """The site of that name.

    Raises:
        InputError: there is no such site.

    >>> parse_site("blocks.3.attn.hook_z").place, parse_site("transcoder.3").name, parse_site("resid_post.0").place
    ('z3', 'mlp_in.3->mlp_out.3', 'resid_post0')
    """
    if isinstance(text, DictionarySite):
        return text
    if not isinstance(text, str) or len(text) > 200:
        raise _unknown(text)
    parts = [_point(part.strip(), text) for part in text.split("->")]
    if len(parts) == 1 and parts[0][0] == "transcoder":
        return DictionarySite(parts[0][1], "mlp_out", "mlp_in")
    (read, layer), (write, other) = parts[0], parts[-1]
    projected = write == "mlp_projected"
    write = "mlp_out" if projected else write
    if len(parts) == 1:
        read = write
    if len(parts) > 2 or write not in WRITES:
        raise _unknown(text)
    if len(parts) == 2 and (layer != other or write != "mlp_out" or read not in READS):
        raise InputError(
            f"a transcoder reads {', '.join(READS)} and writes mlp_out of one layer; got {shown(text)} (sites such as transcoder.3)"
        )
    return DictionarySite(layer, write, read, projected)


def _point(name: str, text: str) -> tuple[str, int]:
    own, hook, module = _OWN.fullmatch(name), _HOOK.fullmatch(name), _MODULE.fullmatch(name)
    if module:
        return SPARSIFY[module[2] or ""], int(module[1])
    if hook and hook[2] in TRANSFORMER_LENS:
        return TRANSFORMER_LENS[hook[2]], int(hook[1])
    if own and own[1] in (*WRITES, *READS, "transcoder"):
        return own[1], int(own[2])
    raise _unknown(text)


def _unknown(text: object) -> InputError:
    return InputError(
        f"there is no site {shown(text)} for a dictionary; sites are {', '.join(f'{name}.3' for name in WRITES)}, transcoder.3, or "
        "TransformerLens' names of them (blocks.3.hook_mlp_out)"
    )
