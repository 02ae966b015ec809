"""The methods of `circuits discover`: built-in ones, and those of other packages (entry points of the group `circuits.methods`).

A method is one file that ends in a `Method`, and one line here. Importing the file takes seconds because it imports torch, but the
command line needs only its declaration. `declared.json` holds copies of the built-in declarations and the names of all metrics and
ablations; a file in the user's cache holds copies of the other declarations. A copy is ignored if its source has changed since.
`make declared` writes `declared.json` and the option tables of the docs.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from circuits import plugins, zoo
from circuits.errors import InputError
from circuits.files.atomic import write_text
from circuits.files.untrusted import read_json
from circuits.methods.method import Declared, Method
from circuits.methods.options import nearest

HERE = Path(__file__).parent
COPIES = HERE / "declared.json"
OURS = {
    "eap": "edge_attribution:EAP",
    "eap-ig": "edge_attribution:EAP_IG",
    "gim": "gim:METHOD",
    "edge-attribution": "edge_attribution:EDGE_ATTRIBUTION",
    "ensemble": "ensemble:METHOD",
    "information-flow": "information_flow:METHOD",
    "acdc": "acdc:METHOD",
    "edge-pruning": "edge_pruning:METHOD",
    "ugs": "ugs:METHOD",
    "exact-edges": "exact_edges:METHOD",
    "activation-patching": "activation_patching:METHOD",
    "path-patching": "path_patching:METHOD",
    "attribution-patching": "attribution_patching:METHOD",
    "direct-effects": "direct_effects:METHOD",
    "atp-star": "atp_star:METHOD",
    "coar": "coar:METHOD",
}
"""name -> module and object of each built-in method."""
USUAL = "eap-ig"
"""The method that runs if none is given."""
FORM = ("methods/options.py", "methods/method.py")
"""Files that define the format of a declaration."""
NAMED_IN = {
    "ablations": tuple(f"question/{name}.py" for name in ("ablation", "ablations", "mean_ablations", "noise_ablation")),
    "metrics": ("question/metrics.py",),
}
"""Files that hold the names and descriptions of all ablations and metrics."""
LARGEST_NOISE_SEED = 2**40
"""Exclusive bound of noise seeds: a pair's seed is a million times this seed plus its number, and must fit into 64 bits."""
MEANS = ("mean", "mean_positional", "optimal")
"""Ablations that take a reference set."""
RECORDED = {
    "shapley": "game_values:SHAPLEY",
    "banzhaf": "game_values:BANZHAF",
    "internal-influence": "component_baselines:INTERNAL_INFLUENCE",
    "refine": "refine:REFINED",
}
"""What is declared of the results of functions that are not in `OURS`."""
plugins.provide(plugins.RECORDED, {name: f"circuits.methods.{place}" for name, place in RECORDED.items()})
plugins.provide(plugins.METHODS, {name: f"circuits.methods.{place}" for name, place in OURS.items()})


def names() -> list[str]:
    """Names of all methods, built-in ones first. Imports none of them."""
    others = (name for name in plugins.method_names() if name not in OURS)
    return [*OURS, *others]


def method(name: str) -> Method:
    """The method with this name, with its code.

    Raises:
        InputError: the method is unknown, or its package cannot be loaded.
    """
    _check_known(name)
    chosen = plugins.find_method(name)
    if not isinstance(chosen, Method) or chosen.name != name:
        raise InputError(f"method {name!r} is not a circuits.methods.method.Method of that name")
    return chosen


def declared(name: str) -> Declared:
    """A method's declaration; the method is imported only if there is no current copy.

    Raises:
        InputError: see `method`.
    """
    _check_known(name)
    return _copy(name) or method(name) if name in OURS else _declared_elsewhere(name)


@cache
def _declared_elsewhere(name: str) -> Declared:
    """The declaration of another package's method, from the copy in the user's cache if the package is unchanged."""
    place = zoo.cache_dir() / f"{name.replace('/', '-')}.method.json"
    source = f"{plugins.method_state(name)} {source_digest(*FORM)}"
    with suppress(InputError, LookupError, TypeError, ValueError):
        copy = read_json(place)
        if copy["source"] == source:
            return Declared.from_dict(copy["declared"])
    made = method(name)
    with suppress(InputError, OSError, TypeError, ValueError):  # a copy only saves time
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, json.dumps({"source": source, "declared": made.to_dict()}))
    return made


def check_known(what: str, name: str | None) -> None:
    """Refuses an unknown `metric` or `ablation` without importing any; None: the default.

    Raises:
        InputError: the name is unknown; the message suggests the nearest one.
    """
    known = list(ablations() if what == "ablation" else metrics())
    if name is not None and name not in known:
        raise InputError(f"there is no {what} {name!r}{nearest(name, known)} (one of {', '.join(known)})")


def check_divided(name: str) -> None:
    """Refuses a method whose runs cannot be divided among workers.

    Raises:
        InputError: the method cannot be divided; the message lists those that can.
    """
    if not declared(name).divided:
        divided = ", ".join(name for name, method in DECLARED.items() if method.divided)
        raise InputError(
            f"a run of method {name} cannot be divided among workers ({divided} can); a study distributes whole runs: "
            "circuits study run --on ray"
        )


def check_noise(ablation: str, noise_tokens: Any, seed: int) -> None:
    """Refuses `noise_tokens` for an ablation (a name) without noise, and seeds too large for the pairs' seeds.

    Raises:
        InputError: with the reason.
    """
    if ablation != "gaussian" and noise_tokens is not None:
        raise InputError(f"noise-tokens belong to gaussian ablation, not to {ablation}")
    if ablation == "gaussian" and seed >= LARGEST_NOISE_SEED:
        raise InputError(f"gaussian ablation takes seeds below {LARGEST_NOISE_SEED}, got {seed}")


def check_reference(ablation: str, reference: Any) -> None:
    """Refuses a reference set for an ablation that does not take one.

    Raises:
        InputError: with the reason.
    """
    if reference is not None and ablation not in MEANS:
        raise InputError(f"a reference belongs to the ablations {', '.join(MEANS)}, not to {ablation}")


@cache
def _copy(name: str) -> Declared | None:
    """The copy of a declaration; None if it is not current."""
    copy = _copies().get("methods", {}).get(name)
    if copy is None or copy["source"] != source_digest(*_sources(name)):
        return None
    return Declared.from_dict({key: value for key, value in copy.items() if key != "source"})


def _check_known(name: str) -> None:
    if name not in OURS and name not in names():
        raise InputError(f"there is no method {name!r}{nearest(name, names())} (one of {', '.join(names())})")


class _Methods(Mapping[str, Any]):
    """Looks methods up by name, lazily."""

    def __init__(self, find: Any) -> None:
        self.find = find

    def __getitem__(self, name: str) -> Any:
        if name not in OURS and name not in names():
            raise KeyError(name)
        return self.find(name)

    def __iter__(self) -> Iterator[str]:
        return iter(names())

    def __len__(self) -> int:
        return len(names())


METHODS: Mapping[str, Method] = _Methods(method)
DECLARED: Mapping[str, Declared] = _Methods(declared)


def ablations() -> dict[str, str]:
    """All ablations: name -> description of the replacement value; imports none of them if the copy is current."""
    return _copied("ablations", _ablations)


def metrics() -> list[str]:
    """Names of all metrics; imports none of them if the copy is current."""
    return _copied("metrics", _metrics)


def _ablations() -> dict[str, str]:
    from circuits.question.ablations import ABLATIONS

    return {name: ablation.help for name, ablation in ABLATIONS.items()}


def _metrics() -> list[str]:
    from circuits.question.metrics import METRICS

    return list(METRICS)


def _copied(what: str, read: Callable[[], Any]) -> Any:
    copy = _copies().get(what)
    return read() if copy is None or copy["source"] != source_digest(*NAMED_IN[what]) else copy["names"]


@cache
def _copies() -> dict[str, Any]:
    try:
        return json.loads(COPIES.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


@cache
def source_digest(*files: str) -> str:
    """SHA-256 of files of this package."""
    return hashlib.sha256(b"\0".join((HERE.parent / file).read_bytes() for file in files)).hexdigest()


def _sources(name: str) -> tuple[str, ...]:
    """The files that hold the declaration of a built-in method."""
    module = f"methods/{OURS[name].partition(':')[0]}"
    own = f"{module}.py" if (HERE.parent / f"{module}.py").exists() else f"{module}/__init__.py"
    return own, *FORM


def copies_text() -> str:
    """The current contents for `declared.json`."""
    methods = {name: {"source": source_digest(*_sources(name)), **METHODS[name].to_dict()} for name in OURS}
    others = {
        what: {"source": source_digest(*NAMED_IN[what]), "names": read()}
        for what, read in (("ablations", _ablations), ("metrics", _metrics))
    }
    return json.dumps({"methods": methods, **others}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    COPIES.write_text(copies_text(), encoding="utf-8")
