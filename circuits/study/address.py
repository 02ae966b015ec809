"""What tells one run from another: the address of a run is the hash of all that its numbers depend on.

The same request has the same address in every study and on every machine; another option, other weights under the same name,
other prompts of the same task, or another version of a package give another one. Weights and prompts are known only when a
model was loaded, so they are looked up once and remembered, as long as the files they come from are the same.
"""

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from circuits import plugins, zoo
from circuits.provenance import plain, versions
from circuits.study.spec import Request


@dataclass(frozen=True)
class Identity:
    """What a request turns out to ask about.

    Attributes:
        weights: sha256 of the model's parameters and buffers.
        pairs: digest of the prompts.
    """

    weights: str
    pairs: str


def digest(told: Any) -> str:
    """sha256 of something as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(plain(told), sort_keys=True).encode()).hexdigest()


def question_key(request: Request) -> str:
    """Under which a request's identity is remembered: its model and task, and the state of what these come from."""
    return digest(
        {
            **_named(request, ("model", "revision", "dtype", "task", "n", "seed")),
            "model_source": _model_state(request.model_source, request.revision),
            "task_source": _task_state(request.task_source),
            "versions": versions(),
        }
    )


def run_address(request: Request, identity: Identity) -> str:
    """The address of a run, without its evaluation: 32 hexadecimal digits."""
    asked = _named(
        request,
        ("model", "revision", "dtype", "device", "device_map", "task", "n", "seed", "method", "options", "metric", "ablation", "batch_size",
         "threads"),
    )  # fmt: skip
    return digest({**asked, "weights": identity.weights, "pairs": identity.pairs, "versions": versions()})[:32]


def evaluation_address(request: Request, run: str) -> str | None:
    """The address of a run's evaluation; None where none is asked for."""
    return None if request.evaluation is None else digest({"run": run, "evaluation": request.evaluation})[:32]


def _named(request: Request, names: tuple[str, ...]) -> Mapping[str, Any]:
    return {name: getattr(request, name) for name in names}


@cache
def _model_state(name: str, revision: str | None) -> str:
    """Changes when what a model is loaded from changes, without loading it."""
    if plugins.names_built_model(name):
        return _code_state(plugins.find_model(name).__module__)
    if name in zoo.names():
        return "zoo"  # its files are checked by hash at every load
    if Path(name).is_dir():
        files = sorted(path for path in Path(name).iterdir() if path.is_file())
        return digest([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else "not fetched"


def _task_state(name: str) -> str:
    if Path(name).is_file():
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    return _code_state(type(plugins.find_task(name)).__module__)


@cache
def _code_state(module: str) -> str:
    """sha256 of the package that a module is in, word lists included; of the module alone where it is in none."""
    top = importlib.util.find_spec(module.partition(".")[0])
    origin = None if top is None else top.origin
    if origin is None or not Path(origin).is_file():
        return "no file"
    files = [Path(origin)]
    if top is not None and top.submodule_search_locations:
        files = sorted(
            path for path in Path(origin).parent.rglob("*") if path.suffix in (".py", ".json", ".safetensors")
        )
    return digest([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
