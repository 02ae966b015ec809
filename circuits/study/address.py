"""The address of a run: the hash of everything that its numbers depend on.

The same request has the same address in every study and on every machine of one kind. Another option, another model under the
same name (weights, configuration, device), other prompts of the same task, or another version of a package change it. Model and
prompts are known only after the model was loaded, so their hashes are computed once and stored, as long as their sources do not
change.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits import plugins, zoo
from circuits.errors import InputError
from circuits.methods.catalogue import declared
from circuits.methods.options import Kind
from circuits.results.provenance import plain, versions
from circuits.study.request import Request, is_file

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.prompts.pairs import PromptPairs

NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "device", "model_name", "tokenizer_name")
"""Parts of a configuration that do not change results."""
NO_TASK = "no such task"
NUMERICAL = ("numpy", "scipy", "scikit-learn")
"""Packages that compute fits and selections, besides those that a run names."""


@dataclass(frozen=True)
class Identity:
    """The model and the prompts of a request, as hashes.

    Attributes:
        model: hash of weights, configuration and kind of device.
        pairs: hash of the prompts.
        versions: hash of the versions of packages.
        metric: name of the metric that the prompts prefer.
    """

    model: str
    pairs: str
    versions: str
    metric: str


def digest(value: Any) -> str:
    """sha256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True, default=str).encode()).hexdigest()


def identity_of(model: "Model", pairs: "PromptPairs", reference: "PromptPairs | None" = None) -> Identity:
    """The identity of a request, from its loaded model, its prompts and the pairs that a mean is taken over."""
    own: Any = getattr(model.bridge.original_model, "config", None)
    config: dict[str, Any] = own.to_dict() if hasattr(own, "to_dict") else vars(model.bridge.cfg)
    kept = {key: value for key, value in config.items() if key not in NOT_OF_THE_MODEL and _simple(value)}
    weights = digest({"weights": model.weights_hash, "config": kept, "device": model.device.type})
    prompts = pairs.digest() if reference is None else digest([pairs.digest(), reference.digest()])
    return Identity(weights, prompts, package_versions(), pairs.metric)


def _simple(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_simple(part) for part in value.values())
    if isinstance(value, list | tuple):
        return all(_simple(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


@cache
def package_versions() -> str:
    """Hash of the versions that results depend on."""
    return digest({**versions(), **{name: version(name) for name in NUMERICAL}})


def request_key(request: Request) -> str:
    """Hash of a request's model and prompts, by name."""
    names = ("model", "revision", "dtype", "device", "device_map", "task")
    of_file = {} if request.metric_of_file is None else {"metric": request.metric_of_file}
    return digest({name: getattr(request, name) for name in names} | request.pairs_asked | of_file)


def question_keys(requests: Sequence[Request]) -> list[str]:
    """Keys of stored identities: hashes of model and prompts by name, and of the state of their sources."""
    models: dict[tuple[str, str | None], str] = {}
    tasks: dict[str, str] = {}
    keys = []
    for request in requests:
        model, task, reference = (request.model_source, request.revision), request.task_source, request.reference_source
        if model not in models:
            models[model] = model_state(*model)
        if task not in tasks:
            tasks[task] = task_state(task)
        state = [models[model], tasks[task], *([] if reference is None else [_contents(Path(reference))])]
        keys.append(digest([request_key(request), *state, package_versions()]))
    return keys


def run_address(request: Request, identity: Identity) -> str:
    """The address of a run, without its evaluation: 32 hexadecimal digits.

    An option that is left out counts as its default, so writing the default down changes nothing. The dtype is that of the
    weights.
    """
    names = ("model", "revision", "device_map", "task", "method", "batch_size", "threads")
    asked = (
        {name: getattr(request, name) for name in names}
        | request.pairs_asked
        | {
            "options": _changed_options(request),
            "metric": request.metric or identity.metric,
            "ablation": request.ablation or declared(request.method).ablation,
        }
    )
    return digest({**asked, "is": [identity.model, identity.pairs, identity.versions]})[:32]


def _changed_options(request: Request) -> Mapping[str, Any]:
    """Options that are not the defaults; files by the hash of their contents."""
    known, changed = declared(request.method).options, {}
    for name, value in request.options.items():
        if known[name].kind is Kind.FILE:
            changed[name] = _contents(Path(request.base) / value)
        elif value != known[name].default or type(value) is not type(known[name].default):
            changed[name] = value
    return changed


def _contents(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return "no such file"


def evaluation_address(request: Request, run: str) -> str | None:
    """The address of a run's evaluation; None: none is asked for.

    An evaluation takes fresh prompts and the known circuit from the task, so the task's code counts. It takes nothing from a
    file, which may even be deleted.
    """
    if request.evaluation is None:
        return None
    state = "a file" if is_file(Path(request.task_source)) else task_state(request.task_source)
    task = None if state in ("a file", NO_TASK) else state
    return digest({"run": run, "evaluation": request.evaluation, "task": task})[:32]


def model_state(name: str, revision: str | None) -> str:
    """Changes when the files or the code of a model change; the model is not loaded."""
    if plugins.names_built_model(name):
        return plugins.code_state(plugins.find_model(name).__module__)
    if name in zoo.names():
        return "zoo"  # every load checks its files by hash
    try:
        if Path(name).is_dir():
            files = sorted(path for path in Path(name).iterdir() if path.is_file())
            return digest([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    except (OSError, ValueError):  # no file can have this name
        return "no such name"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return "no such name"
    return Path(cached).parent.name if isinstance(cached, str) else "not fetched"


def task_state(name: str) -> str:
    """Changes when the file or the code of the prompts changes."""
    if Path(name).is_file():
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    try:
        return plugins.code_state(type(plugins.load_task(name)).__module__)
    except InputError:
        return NO_TASK
