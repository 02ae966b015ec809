"""`load_dictionary`: finds out which library wrote the files, and reads them.

| files | written by |
|---|---|
| directory with `cfg.json` and `sae_weights.safetensors` | SAELens 6 |
| directory with `cfg.json` and `sae.safetensors` | EleutherAI's sparsify |
| directory with `config.yaml` and a safetensors file for each layer, or one such file | circuit-tracer |
| directory with `params.npz`, or a `.npz` file | Gemma Scope |

Nothing is unpickled or executed.
"""

from pathlib import Path

from circuits.dictionaries import circuit_tracer, saelens, sparsify
from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.gemma_scope import read_gemma_scope
from circuits.dictionaries.hub import fetch, is_uri, parse_id
from circuits.dictionaries.parts import Asked, file_in
from circuits.dictionaries.site import parse_site
from circuits.dictionaries.yaml_subset import read_yaml
from circuits.errors import InputError
from circuits.plain_torch import plain_torch

NPZ = "params.npz"


@plain_torch
def load_dictionary(path: str | Path, site: str | None = None, *, revision: str | None = None) -> Dictionary:
    """Loads a sparse autoencoder or a transcoder.

    Args:
        path: a directory, a file, or an id of the Hugging Face Hub (`org/name`, `org/name/folder`); see `circuits.dictionaries.load`.
        site: where it reads and writes, such as `mlp_out.3` or `transcoder.3` (`circuits.dictionaries.site`). None: as its files say.
            It must agree with them. For a set of transcoders it names the layer.
        revision: branch, tag or commit of an id of the hub.

    Returns:
        The dictionary, in float32, or float64 if it is stored in it, on the CPU.

    Raises:
        InputError: there are no such files, they are not a dictionary (wrong shapes, values that are not finite), or they are one that
            could not be inserted exactly; with the reason.
    """
    if site is not None:
        parse_site(site)
    asked = Asked(site, str(path))
    local = Path(path)
    if not is_uri(str(path)) and local.is_dir():
        return _read_directory(local, asked)
    if not is_uri(str(path)) and local.exists():
        return _read_file(local, asked)
    return _read_hub(str(path), asked, revision)


def _read_directory(directory: Path, asked: Asked) -> Dictionary:
    for name, read in ((saelens.WEIGHTS, saelens.read_saelens), (sparsify.WEIGHTS, sparsify.read_sparsify)):
        if (directory / name).exists():
            return read(directory, asked)
    if (directory / circuit_tracer.CONFIG).exists():
        return circuit_tracer.read_transcoder_set(directory, asked)
    if (directory / NPZ).exists():
        return read_gemma_scope(file_in(directory, NPZ), asked)
    raise InputError(
        f"{directory} has no dictionary: expected {saelens.WEIGHTS} or {sparsify.WEIGHTS} with cfg.json, "
        f"{circuit_tracer.CONFIG} of a set of transcoders, or {NPZ}"
    )


def _read_file(path: Path, asked: Asked) -> Dictionary:
    if path.suffix == ".npz":
        return read_gemma_scope(path, asked)
    if path.suffix == ".safetensors" and path.name not in (saelens.WEIGHTS, sparsify.WEIGHTS):
        return circuit_tracer.read_transcoder(path, asked)
    if path.suffix == ".safetensors":
        return _read_directory(path.parent, asked)
    raise InputError(
        f"{path} is not a dictionary; expected a directory, a .safetensors or a .npz file (pickled files, .pt and .bin, are not read)"
    )


def _read_hub(name: str, asked: Asked, revision: str | None) -> Dictionary:
    repository, folder, revision = parse_id(name, revision)
    inside = f"{folder}/" if folder else ""
    if folder.endswith((".npz", ".safetensors")):
        path = fetch(repository, [folder], revision) / folder
        if not path.is_file():
            raise InputError(f"{repository} has no file {folder}")
        return _read_file(path, asked)
    wanted = [saelens.CONFIG, saelens.WEIGHTS, saelens.SCALER, sparsify.WEIGHTS, circuit_tracer.CONFIG, NPZ]
    root = fetch(repository, [f"{inside}{one}" for one in wanted], revision)
    directory = root / folder
    config = directory / circuit_tracer.CONFIG
    if config.exists() and asked.site is not None and "transcoders" not in read_yaml(config):
        fetch(repository, [f"{inside}layer_{parse_site(asked.site).layer}.safetensors"], revision)
    return _read_directory(directory, asked)
