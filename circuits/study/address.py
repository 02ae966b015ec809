"""What tells one run from another: the address of a run is the hash of all that its numbers depend on.

The same request has the same address in every study and on every machine of one kind; another option, another model under the
same name (weights, configuration, device), other prompts of the same task, or another version of a package give another one. Model and
prompts are known only when the model was loaded, so they are looked up once and remembered, as long as what they come from is the
same.
"""

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from circuits import plugins, zoo
from circuits.errors import InputError
from circuits.methods.catalogue import declared
from circuits.methods.options import Kind
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.results.provenance import plain, versions
from circuits.study.request import Request, is_file

NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "device", "model_name", "tokenizer_name")
"""Parts of a configuration that change no number."""
NO_TASK = "no such task"
NUMERICAL = ("numpy", "scipy", "scikit-learn")
"""Packages that fits and selections are computed with, besides those that a run names."""


@dataclass(frozen=True)
class Identity:
    """What a request turns out to ask about, as hashes.

    Attributes:
        model: of weights, configuration and kind of device.
        pairs: of prompts.
        versions: of the packages that they were made with.
        metric: that the prompts prefer, by name.
    """

    model: str
    pairs: str
    versions: str
    metric: str


def digest(told: Any) -> str:
    """sha256 of something as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(plain(told), sort_keys=True, default=str).encode()).hexdigest()


def identity_of(model: Model, pairs: PromptPairs) -> Identity:
    """The identity of a request whose model is loaded and whose prompts are made."""
    own: Any = getattr(model.bridge.original_model, "config", None)
    config: dict[str, Any] = own.to_dict() if hasattr(own, "to_dict") else vars(model.bridge.cfg)
    told = {key: value for key, value in config.items() if key not in NOT_OF_THE_MODEL and _simple(value)}
    weights = digest({"weights": model.weights_hash, "config": told, "device": model.device.type})
    return Identity(weights, pairs.digest(), package_versions(), pairs.metric)


def _simple(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_simple(part) for part in value.values())
    if isinstance(value, list | tuple):
        return all(_simple(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


@cache
def package_versions() -> str:
    """Hash of the versions that numbers depend on."""
    return digest({**versions(), **{name: version(name) for name in NUMERICAL}})


def request_key(request: Request) -> str:
    """Tells requests of one study apart by their model and prompts, as they are named."""
    names = ("model", "revision", "dtype", "device", "device_map", "task")
    return digest({name: getattr(request, name) for name in names} | request.pairs_asked)


def question_keys(requests: Sequence[Request]) -> list[str]:
    """Under which identities are remembered: model and prompts as they are named, and the state of what they come from."""
    models: dict[tuple[str, str | None], str] = {}
    tasks: dict[str, str] = {}
    keys = []
    for request in requests:
        model, task = (request.model_source, request.revision), request.task_source
        if model not in models:
            models[model] = model_state(*model)
        if task not in tasks:
            tasks[task] = task_state(task)
        keys.append(digest([request_key(request), models[model], tasks[task], package_versions()]))
    return keys


def run_address(request: Request, identity: Identity) -> str:
    """The address of a run, without its evaluation: 32 hexadecimal digits.

    What is left out counts as what it stands for: to write down the default changes nothing. The dtype is that of the weights.
    """
    names = ("model", "revision", "device_map", "task", "method", "batch_size", "threads")
    asked = (
        {name: getattr(request, name) for name in names}
        | request.pairs_asked
        | {
            "options": _told_options(request),
            "metric": request.metric or identity.metric,
            "ablation": request.ablation or declared(request.method).ablation,
        }
    )
    return digest({**asked, "is": [identity.model, identity.pairs, identity.versions]})[:32]


def _told_options(request: Request) -> Mapping[str, Any]:
    """Options that are not the defaults; of a file what it holds."""
    known = declared(request.method).options
    found = {}
    for name, value in request.options.items():
        if known[name].kind is Kind.FILE:
            found[name] = _contents(Path(request.base) / value)
        elif value != known[name].default or type(value) is not type(known[name].default):
            found[name] = value
    return found


def _contents(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return "no such file"


def evaluation_address(request: Request, run: str) -> str | None:
    """The address of a run's evaluation; None where none is asked for.

    A task tells more than the run's prompts: fresh ones, and a circuit that is known. So its code counts. A file tells no more,
    and need not be there any longer.
    """
    if request.evaluation is None:
        return None
    state = "a file" if is_file(Path(request.task_source)) else task_state(request.task_source)
    task = None if state in ("a file", NO_TASK) else state
    return digest({"run": run, "evaluation": request.evaluation, "task": task})[:32]


def model_state(name: str, revision: str | None) -> str:
    """Changes when what a model is loaded from changes, without loading it."""
    if plugins.names_built_model(name):
        return _code_state(plugins.find_model(name).__module__)
    if name in zoo.names():
        return "zoo"  # its files are checked by hash at every load
    try:
        if Path(name).is_dir():
            files = sorted(path for path in Path(name).iterdir() if path.is_file())
            return digest([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    except (OSError, ValueError):  # a name that no file can have
        return "no such name"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return "no such name"
    return Path(cached).parent.name if isinstance(cached, str) else "not fetched"


def task_state(name: str) -> str:
    """Changes when what prompts come from changes."""
    if Path(name).is_file():
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    try:
        return _code_state(type(plugins.load_task(name)).__module__)
    except InputError:
        return NO_TASK


@cache
def _code_state(module: str) -> str:
    """sha256 of the package that a module is in, word lists included; of the module alone where it is in none."""
    top = importlib.util.find_spec(module.partition(".")[0])
    origin = None if top is None else top.origin
    if origin is None or not Path(origin).is_file():
        return "no file"
    files = [Path(origin)]
    if top is not None and top.submodule_search_locations:
        suffixes = (".py", ".json", ".safetensors")
        files = sorted(path for path in Path(origin).parent.rglob("*") if path.suffix in suffixes)
    return digest([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
