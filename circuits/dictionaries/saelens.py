"""Directories of SAELens 6: `cfg.json` and `sae_weights.safetensors` (older ones, whose configuration is flat, are read too).

`normalize_activations` must be `none`, or `expected_average_only_in`, whose factor SAELens folds into the weights that it saves. Other
kinds scale each token by itself, so a feature's write would not be a fixed vector; they are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.dictionaries.activation import Activation
from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.parts import Asked, file_in, flag, matrix, needed, read_weights, text, whole
from circuits.dictionaries.site import DictionarySite, parse_site
from circuits.errors import InputError
from circuits.files.untrusted import as_object, read_json, shown

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
KINDS = {
    "standard": "relu", "jumprelu": "jumprelu", "gated": "gated", "topk": "topk", "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk", "transcoder": "relu", "skip_transcoder": "relu", "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
"""SAELens' architectures, and their activation functions."""


def read_saelens(directory: Path, asked: Asked) -> Dictionary:
    """The dictionary of a directory.

    Raises:
        InputError: with what is missing, wrong or not supported.
    """
    path = file_in(directory, CONFIG)
    config = as_object(read_json(path), str(path))
    metadata = {**config, **as_object(config.get("metadata"), f"{path}: metadata")}
    kind = _kind(config, directory, path)
    weights = read_weights(file_in(directory, WEIGHTS), "a dictionary of SAELens")
    encoder = "b_mag" if KINDS[kind] == "gated" else "b_enc"
    names = ("W_enc", encoder, "W_dec", "b_dec")
    W_enc, b_enc, W_dec, b_dec = needed(weights, names, directory / WEIGHTS)
    if KINDS[kind] in ("topk", "batchtopk") and flag(config, "rescale_acts_by_decoder_norm", path):
        norms = matrix(W_dec, "W_dec", path).norm(dim=1)
        if not bool((norms > 0).all()) or norms.shape != b_enc.shape or norms.shape != W_enc.shape[1:]:
            raise InputError(f"{directory / WEIGHTS}: W_dec has rows of zeros or another size than W_enc")
        W_enc, b_enc, W_dec = W_enc * norms, b_enc * norms, W_dec / norms[:, None]
    skip = needed(weights, ("W_skip",), directory / WEIGHTS)[0] if "skip" in kind else None
    centred = flag(config, "apply_b_dec_to_input", path, usual="transcoder" not in kind)
    return Dictionary.from_weights(
        asked.resolved(_site(metadata, "transcoder" in kind, path), path), W_enc, b_enc, W_dec, b_dec,
        _activation(kind, config, weights, directory), skip, b_in=b_dec if centred else None,
        model=text(metadata, "model_name", path), source=asked.source,
    )  # fmt: skip


def _kind(config: Mapping[str, Any], directory: Path, path: Path) -> str:
    """The architecture, after a check for everything that this reader does not support."""
    kind = text(config, "architecture", path) or "standard"
    kwargs = as_object(config.get("activation_fn_kwargs"), f"{path}: activation_fn_kwargs")
    function = text(config, "activation_fn", path) or text(config, "activation_fn_str", path) or "relu"
    if kind == "standard" and function == "topk" and "k" in kwargs:
        kind = "topk"
    if kind not in KINDS:
        raise InputError(
            f"{path}: dictionaries of architecture {shown(kind)} are not supported (supported: {', '.join(KINDS)})"
        )
    if kind != "topk" and function != "relu":
        raise InputError(f"{path}: the activation function {shown(function)} is not supported; expected relu")
    normalise = config.get("normalize_activations", "none")
    if normalise not in ("none", "expected_average_only_in", False, None):
        raise InputError(
            f"{path}: normalize_activations is {shown(normalise)}, which scales each token by itself, so that features write no fixed "
            "vectors; only dictionaries without it can be inserted"
        )
    if (directory / SCALER).exists():
        raise InputError(
            f"{directory} is a checkpoint whose {SCALER} is not folded into the weights; save the finished dictionary with SAELens"
        )
    if config.get("finetuning_scaling_factor"):
        raise InputError(f"{path}: dictionaries with a finetuning scaling factor are not supported")
    if (
        config.get("hook_head_index") is not None
        or as_object(config.get("metadata"), "metadata").get("hook_head_index") is not None
    ):
        raise InputError(
            f"{path}: a dictionary of one head alone is not supported; expected one of all heads of a layer"
        )
    return kind


def _activation(kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], directory: Path) -> Activation:
    name, path = KINDS[kind], directory / CONFIG
    if name == "topk":
        kwargs = as_object(config.get("activation_fn_kwargs"), f"{path}: activation_fn_kwargs")
        return Activation(name, k=whole(config if "k" in config else kwargs, "k", path))
    if name == "gated":
        r_mag, b_gate = needed(weights, ("r_mag", "b_gate"), directory / WEIGHTS)
        return Activation(name, r_mag=r_mag, b_gate=b_gate)
    if name == "batchtopk":
        threshold = needed(weights, ("topk_threshold",), directory / WEIGHTS)[0]
        return Activation(name, threshold=threshold.reshape(-1).to(torch.float32))
    if name == "jumprelu":
        return Activation(name, threshold=needed(weights, ("threshold",), directory / WEIGHTS)[0])
    return Activation(name)


def _site(metadata: Mapping[str, Any], transcodes: bool, path: Path) -> DictionarySite | None:
    read = text(metadata, "hook_name", path) or text(metadata, "hook_point", path)
    write = text(metadata, "hook_name_out", path)
    if read is None or (transcodes and write is None):
        return None
    return parse_site(f"{read}->{write}" if transcodes else read)
