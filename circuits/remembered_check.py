"""Remembers that a model's graph was found exact, so that the check (ten forward passes) runs once for the same weights.

A report belongs to the SHA-256 of the loaded weights, which results record anyway, and to everything else that the check depends
on: the configuration, the devices, the versions of the libraries, and the source of the engine. Other weights have another sum, so
they are always checked. Only successes are kept, in `checks/` of the user's cache; deleting that directory is safe.
"""

import hashlib
import json
import platform
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from circuits import zoo
from circuits.engine.check import CheckReport
from circuits.errors import InputError
from circuits.files.atomic import write_text
from circuits.files.untrusted import read_json

LIBRARIES = ("mech-circuits", "torch", "transformers", "transformer-lens", "accelerate")
ENGINE = Path(__file__).parent / "engine"
EXACT = ("prefix_exact", "resume_exact", "columns_exact")
ERRORS = ("residual", "all_kept", "none_kept")


def check_key(weights_hash: str, bridge: Any) -> str:
    """The SHA-256 of all that a report depends on.

    Args:
        weights_hash: SHA-256 of the weights in memory.
        bridge: the loaded TransformerBridge.
    """
    model = bridge.original_model
    config = getattr(model, "config", None)
    devices = sorted({_device_name(parameter.device) for parameter in model.parameters()})
    facts = {
        "weights": weights_hash,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": None if config is None else config.to_json_string(use_diff=False),
        "compatibility": bool(bridge.compatibility_mode),
        "devices": [devices, repr(getattr(model, "hf_device_map", None))],
        "machine": [platform.machine(), platform.python_version()],
        "libraries": {name: version(name) for name in LIBRARIES},
        "engine": _engine_source(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def remembered(key: str) -> CheckReport | None:
    """The report that was kept under a key, marked `remembered`; None if there is none."""
    with suppress(InputError, LookupError, TypeError, ValueError, OSError):
        kept = read_json(_place(key))
        if kept["key"] == key:
            return _report(kept["report"])
    return None


def remember(key: str, report: CheckReport) -> None:
    """Keeps a report under a key; without effect where the cache cannot be written."""
    with suppress(InputError, OSError):
        place = _place(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, json.dumps({"key": key, "report": asdict(replace(report, remembered=False))}))


def _report(values: Any) -> CheckReport:
    """A stored report; raises TypeError or ValueError if a value is of another kind."""
    exact = {name: values[name] for name in EXACT}
    if not all(type(value) is bool for value in exact.values()):
        raise ValueError("not a report")
    prefix = values["prefix"]
    return CheckReport(
        **{name: float(values[name]) for name in ERRORS}, prefix=None if prefix is None else float(prefix), **exact,
        remembered=True,
    )  # fmt: skip


def _place(key: str) -> Path:
    return zoo.cache_dir() / "checks" / f"{key[:32]}.json"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _engine_source() -> str:
    digest = hashlib.sha256()
    for path in sorted(ENGINE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
