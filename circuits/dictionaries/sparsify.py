"""Directories of EleutherAI's sparsify: `cfg.json` and `sae.safetensors`, one for each hook point, after which it is named."""

from contextlib import suppress
from pathlib import Path

from circuits.dictionaries.activation import Activation
from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.parts import Asked, file_in, flag, matrix, needed, read_weights, text, whole
from circuits.dictionaries.site import DictionarySite, parse_site
from circuits.errors import InputError
from circuits.files.untrusted import as_object, read_json, shown

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def read_sparsify(directory: Path, asked: Asked) -> Dictionary:
    """The dictionary of a directory.

    Raises:
        InputError: with what is missing, wrong or not supported.
    """
    path = file_in(directory, CONFIG)
    config = as_object(read_json(path), str(path))
    activation = config.get("activation", "topk")
    if activation != "topk" or flag(config, "signed", path):
        raise InputError(f"{path}: activation {shown(activation)} is not supported; expected topk, unsigned")
    weights = read_weights(file_in(directory, WEIGHTS), "a dictionary of sparsify")
    names = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
    encoder, b_enc, W_dec, b_dec = needed(weights, names, directory / WEIGHTS)
    transcodes = flag(config, "transcode", path)
    skip = needed(weights, ("W_skip",), directory / WEIGHTS)[0] if flag(config, "skip_connection", path) else None
    return Dictionary.from_weights(
        asked.resolved(_site(directory.name, transcodes), path), matrix(encoder, "encoder.weight", path).T, b_enc, W_dec, b_dec,
        Activation("topk", k=whole(config, "k", path)), skip, b_in=None if transcodes else b_dec, model=text(config, "model_name", path), source=asked.source,
    )  # fmt: skip


def _site(name: str, transcodes: bool) -> DictionarySite | None:
    """The site of a hook point such as `layers.3.mlp`; None if the directory has another name."""
    with suppress(InputError):
        site = parse_site(name)
        if not transcodes:
            return site
        if site.writes == "mlp_out":
            return DictionarySite(site.layer, "mlp_out", "mlp_in", site.projected)
    return None
