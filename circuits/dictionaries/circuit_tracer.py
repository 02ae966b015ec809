"""Transcoder sets of circuit-tracer: `config.yaml`, and a safetensors file for each layer.

The configuration names the hook points between which the transcoders of all layers map. Its `transcoders` lists the layers' files; without
that list they are `layer_0.safetensors`, `layer_1.safetensors` … Files of Gemma Scope 2 are in the same sets, with other names of
tensors. circuit-tracer keeps negative values among the k largest of a topk transcoder, so this reader does too.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from circuits.dictionaries.activation import Activation
from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.gemma_scope import read_gemma_scope
from circuits.dictionaries.hub import fetch_file, is_uri
from circuits.dictionaries.parts import Asked, file_in, matrix, needed, read_weights
from circuits.dictionaries.site import DictionarySite, parse_site
from circuits.dictionaries.yaml_subset import read_yaml
from circuits.errors import InputError
from circuits.files.untrusted import shown
from circuits.model_files import plain_name

CONFIG = "config.yaml"
Config = Mapping[str, str | list[str]]


def read_transcoder_set(directory: Path, asked: Asked) -> Dictionary:
    """The transcoder of the layer that the site names.

    Raises:
        InputError: with what is missing, wrong or not supported.
    """
    path = file_in(directory, CONFIG)
    config = read_yaml(path)
    if asked.site is None:
        raise InputError(
            f"{directory} is a set of transcoders, one for each layer; give the site of one, such as 'transcoder.3'"
        )
    layer = parse_site(asked.site).layer
    return read_transcoder(layer_file(directory, config, layer), asked, config, _site(config, layer, path))


def layer_file(directory: Path, config: Config, layer: int) -> Path:
    """The file of a layer, downloaded if the configuration names one of the hub."""
    names = config.get("transcoders")
    if names is None:
        return file_in(directory, f"layer_{layer}.safetensors")
    if not isinstance(names, list) or layer >= len(names):
        raise InputError(f"{directory / CONFIG} lists {len(names)} transcoders; there is none for layer {layer}")
    if is_uri(names[layer]):
        return fetch_file(names[layer])
    return file_in(directory, plain_name(directory / CONFIG, names[layer]))


def read_transcoder(
    path: Path, asked: Asked, config: Config | None = None, stated: DictionarySite | None = None
) -> Dictionary:
    """The transcoder of one layer's file.

    Args:
        path: a safetensors file, or Gemma Scope's `.npz`.
        asked: what the user requested.
        config: the configuration of its set, if there is one.
        stated: the site, if the configuration states it.

    Raises:
        InputError: with what is missing, wrong or not supported.
    """
    config = config or {}
    model = config.get("model_name")
    model = model if isinstance(model, str) else None
    if path.suffix == ".npz":
        return read_gemma_scope(path, asked, stated, model)
    weights = read_weights(path, "a transcoder of circuit-tracer")
    if "w_enc" in weights:
        weights = _of_gemma_scope_2(weights, path)
    encoder, b_enc, W_dec, b_dec = needed(weights, ("W_enc", "b_enc", "W_dec", "b_dec"), path)
    return Dictionary.from_weights(
        asked.resolved(stated, path), matrix(encoder, "W_enc", path).T, b_enc, W_dec, b_dec, _activation(weights, config, path),
        weights.get("W_skip"), model=model, source=asked.source,
    )  # fmt: skip


def _of_gemma_scope_2(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    encoder, decoder, b_enc, b_dec, threshold = needed(weights, ("w_enc", "w_dec", "b_enc", "b_dec", "threshold"), path)
    named = {"W_enc": matrix(encoder, "w_enc", path).T, "W_dec": decoder, "b_enc": b_enc, "b_dec": b_dec}
    if "affine_skip_connection" in weights:
        named["W_skip"] = matrix(weights["affine_skip_connection"], "affine_skip_connection", path).T
    return {**named, "activation_function.threshold": threshold}


def _activation(weights: Mapping[str, Tensor], config: Config, path: Path) -> Activation:
    threshold, k, stated = weights.get("activation_function.threshold"), weights.get("k"), config.get("activation")
    if stated not in (None, "relu", "topk", "jump_relu", "jumprelu"):
        raise InputError(
            f"{path}: the activation function {shown(stated)} is not supported; expected relu, topk or jumprelu"
        )
    if stated == "topk" or (stated is None and k is not None):
        number = str(config.get("k", "" if k is None or k.numel() != 1 else int(k)))
        if not number.isdecimal() or len(number) > 9:
            raise InputError(f"{path}: a topk transcoder needs k, and its set states {shown(number or None)}")
        return Activation("topk", k=int(number), rectified=False)
    if threshold is None or stated == "relu":
        return Activation("relu")
    if bool((threshold < 0).any()):
        raise InputError(f"{path}: thresholds below 0 let negative features through, which is not supported")
    return Activation("jumprelu", threshold=threshold)


def _site(config: Config, layer: int, path: Path) -> DictionarySite:
    if config.get("model_kind") != "transcoder_set":
        raise InputError(
            f"{path}: model_kind is {shown(config.get('model_kind'))}; only transcoder_set is supported (one layer's MLP each)"
        )
    hooks = [config.get(name) for name in ("feature_input_hook", "feature_output_hook")]
    if not all(isinstance(hook, str) for hook in hooks):
        raise InputError(f"{path} must name feature_input_hook and feature_output_hook")
    return parse_site(f"blocks.{layer}.{hooks[0]}->blocks.{layer}.{hooks[1]}")
