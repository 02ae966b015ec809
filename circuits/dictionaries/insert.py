"""A model with dictionaries inserted; see `circuits.engine.inserted`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.site import DictionarySite
from circuits.engine.architecture import Architecture, Block
from circuits.engine.insertion import Insertion
from circuits.errors import InputError
from circuits.model import Model

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint


def with_dictionaries(model: Model, dictionaries: Sequence[Dictionary]) -> Model:
    """The same model, with the features of these dictionaries as nodes. The given model is unchanged, and so is what the result
    computes; without dictionaries, it is the given model.

    Raises:
        InputError: a dictionary of another model or of other sizes, a site that the model does not have, or two dictionaries at one
            place.
    """
    if isinstance(dictionaries, Dictionary):
        raise InputError("dictionaries must be a list of dictionaries: dictionaries=[…]")
    insertions: dict[str, Insertion] = {}
    for dictionary in dictionaries:
        if not isinstance(dictionary, Dictionary):
            raise InputError(
                f"dictionaries must be a list of circuits.Dictionary, got a {type(dictionary).__name__} in it; "
                "circuits.load_dictionary(…) gives one"
            )
        one = _insertion(model, dictionary)
        if one.place in insertions:
            raise InputError(
                f"two dictionaries are given at {one.place}; nodes such as f:{one.place}.0 would be ambiguous"
            )
        insertions[one.place] = one
    if not insertions:
        return model
    in_order = dict(sorted(insertions.items(), key=lambda item: item[1].layer))
    result = replace(model, architecture=replace(model.architecture, inserted=in_order))
    return result


@dataclass(frozen=True, eq=False)
class Points:
    """Where a model computes what a dictionary reads and writes.

    Attributes:
        at, reads, stream: hook points, see `circuits.engine.insertion`.
        d_in, d_out: the numbers per token that are read and written.
        dtype, device: of the dictionary's computation.
    """

    at: "HookPoint"
    reads: "HookPoint | None"
    stream: "HookPoint | None"
    d_in: int
    d_out: int
    dtype: torch.dtype
    device: torch.device


def site_points(model: Model, site: DictionarySite) -> Points:
    """Where a model has this site.

    Raises:
        InputError: it does not have it.
    """
    architecture = model.architecture
    if site.layer >= len(architecture.blocks):
        raise InputError(
            f"the dictionary of {site} is for layer {site.layer}, and {model.name} has {len(architecture.blocks)} layers"
        )
    block = architecture.blocks[site.layer]
    _check_site(model, block, site)
    dtype = torch.promote_types(model.dtype, torch.float32)
    device = next(block.module.parameters()).device
    at = _written(architecture, block, site)
    reads = _read(model, block, site) if site.is_transcoder else None
    stream = block.resid_pre if site.writes == "resid_mid" else None
    return Points(at, reads, stream, *_widths(model, site), dtype, device)


def _insertion(model: Model, dictionary: Dictionary) -> Insertion:
    site = dictionary.site
    _check_model(model, dictionary)
    points = site_points(model, site)
    if (dictionary.d_in, dictionary.d_out) != (points.d_in, points.d_out):
        raise InputError(
            f"the dictionary of {site} reads {dictionary.d_in} numbers and writes {dictionary.d_out}; in {model.name} it must read "
            f"{points.d_in} and write {points.d_out}"
        )
    coder = dictionary.to(points.dtype, points.device)
    return Insertion(site.place, site.layer, coder, points.at, points.reads, points.stream)


def _check_model(model: Model, dictionary: Dictionary) -> None:
    """Refuses a dictionary that was trained on another model; names are compared without their organisation."""
    if dictionary.model is None:
        return
    own = {_plain(model.name), _plain(str(getattr(model.bridge.cfg, "model_name", "") or model.name))}
    if _plain(dictionary.model) not in own:
        raise InputError(
            f"the dictionary of {dictionary.site} was trained on {dictionary.model}, and this model is {model.name}; if they are the same, "
            "load it with model=None"
        )


def _plain(name: str) -> str:
    """A model's name without its organisation, in lower case: `HuggingFaceTB/SmolLM2-135M` -> `smollm2-135m`."""
    short = name.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1].lower()
    return {"gpt2-small": "gpt2"}.get(short, short)


def _check_site(model: Model, block: Block, site: DictionarySite) -> None:
    why = None
    if site.writes == "mlp_out" and block.mlp_out is None:
        why = "has no MLP there"
    elif site.projected and block.mlp_projected is not block.mlp_out:
        why = "has a norm after its MLPs, and the dictionary decomposes what is before that norm"
    elif "resid_mid" in (site.writes, site.reads) and block.parallel:
        why = "has parallel blocks, without a stream in the middle"
    elif site.writes == "resid_mid" and block.scale != 1.0:
        why = "multiplies what blocks write, so resid_mid is not attention's write plus the stream"
    elif site.reads == "mlp_normalized" and _normalized(model, site) is None:
        why = "has no norm before that MLP"
    if why is not None:
        raise InputError(f"no dictionary can be inserted at {site}: {model.name} {why}")


def _widths(model: Model, site: DictionarySite) -> tuple[int, int]:
    """Numbers per token that a dictionary of this site reads and writes."""
    d_model = int(model.bridge.cfg.d_model)
    heads = model.architecture.blocks[site.layer].output_projection.shape
    written = heads[0] * heads[1] if site.writes == "hook_z" else d_model
    return (d_model if site.is_transcoder else written), written


def _written(architecture: Architecture, block: Block, site: DictionarySite):
    if site.writes == "resid_post":
        later = site.layer + 1
        return architecture.blocks[later].resid_pre if later < len(architecture.blocks) else architecture.final
    points = {"mlp_out": block.mlp_out, "attn_out": block.attn_out, "resid_mid": block.attn_out, "hook_z": block.z}
    at = points.get(site.writes, block.resid_pre)
    assert at is not None
    return at


def _read(model: Model, block: Block, site: DictionarySite):
    if site.reads == "resid_mid":
        return block.resid_mid or block.mlp_in
    return block.mlp_in if site.reads == "mlp_in" else _normalized(model, site)


def _normalized(model: Model, site: DictionarySite):
    return model.bridge.hook_dict.get(f"blocks.{site.layer}.ln2.hook_normalized")
