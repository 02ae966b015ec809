"""The methods of `circuits discover`: ours, and those of other packages (entry points of the group `circuits.methods`).

A method is one file that ends in a `Method`, and one line here. To import the file takes seconds, since torch is imported; the
command line needs only what it declares, of which `declared.json` holds a copy, beside the names of all metrics and ablations. A copy
whose file has changed since is not used. `make declared` writes the copies, and the option tables of the docs.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from circuits import plugins
from circuits.errors import InputError
from circuits.methods.method import Declared, Method
from circuits.methods.options import nearest

HERE = Path(__file__).parent
COPIES = HERE / "declared.json"
OURS = {
    "eap": "edge_attribution:EAP",
    "eap-ig": "edge_attribution:EAP_IG",
    "edge-attribution": "edge_attribution:EDGE_ATTRIBUTION",
    "information-flow": "information_flow:METHOD",
    "acdc": "acdc:METHOD",
    "edge-pruning": "edge_pruning:METHOD",
    "exact-edges": "exact_edges:METHOD",
    "activation-patching": "activation_patching:METHOD",
    "path-patching": "path_patching:METHOD",
    "attribution-patching": "attribution_patching:METHOD",
    "atp-star": "atp_star:METHOD",
    "coar": "coar:METHOD",
}
"""Where each is declared."""
plugins.provide(plugins.METHODS, {name: f"circuits.methods.{place}" for name, place in OURS.items()})


def names() -> list[str]:
    """Of all methods: ours first. Nothing is imported yet."""
    others = (name for name in plugins.method_names() if name not in OURS)
    return [*OURS, *others]


def method(name: str) -> Method:
    """The method of that name, with its code.

    Raises:
        InputError: there is none, or its package cannot be loaded.
    """
    _check_known(name)
    chosen = plugins.find_method(name)
    if not isinstance(chosen, Method) or chosen.name != name:
        raise InputError(f"method {name!r} is not a circuits.methods.method.Method of that name")
    return chosen


def declared(name: str) -> Declared:
    """What a method declares; without importing it where it is one of ours.

    Raises:
        InputError: as `method`.
    """
    _check_known(name)
    return (_copy(name) if name in OURS else None) or method(name)


@cache
def _copy(name: str) -> Declared | None:
    """The copy of a declaration; None where it is not current."""
    copy = _copies().get("methods", {}).get(name)
    if copy is None or copy["source"] != source_digest(*_sources(name)):
        return None
    return Declared.from_dict({key: value for key, value in copy.items() if key != "source"})


def _check_known(name: str) -> None:
    if name not in OURS and name not in names():
        raise InputError(f"there is no method {name!r}{nearest(name, names())} (one of {', '.join(names())})")


class _Methods(Mapping[str, Any]):
    """By name, each looked up when it is asked for."""

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
    """Names of all ablations, and what each replaces a value by; without importing them where the copy is current."""
    return _copied("ablations", _ablations)


def metrics() -> list[str]:
    """Names of all metrics; without importing them where the copy is current."""
    return _copied("metrics", _metrics)


def _ablations() -> dict[str, str]:
    from circuits.question.ablations import ABLATIONS

    return {name: ablation.help for name, ablation in ABLATIONS.items()}


def _metrics() -> list[str]:
    from circuits.question.metrics import METRICS

    return list(METRICS)


def _copied(what: str, read: Callable[[], Any]) -> Any:
    copy = _copies().get(what)
    return read() if copy is None or copy["source"] != source_digest(f"question/{what}.py") else copy["names"]


@cache
def _copies() -> dict[str, Any]:
    try:
        return json.loads(COPIES.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


@cache
def source_digest(*files: str) -> str:
    """sha256 of files of this package."""
    return hashlib.sha256(b"\0".join((HERE.parent / file).read_bytes() for file in files)).hexdigest()


def _sources(name: str) -> tuple[str, ...]:
    """The files that hold the declaration of a method of ours."""
    module = f"methods/{OURS[name].partition(':')[0]}"
    own = f"{module}.py" if (HERE.parent / f"{module}.py").exists() else f"{module}/__init__.py"
    return own, "methods/options.py", "methods/method.py"


def copies_text() -> str:
    """What `declared.json` should hold."""
    methods = {name: {"source": source_digest(*_sources(name)), **METHODS[name].to_dict()} for name in OURS}
    others = {
        what: {"source": source_digest(f"question/{what}.py"), "names": read()}
        for what, read in (("ablations", _ablations), ("metrics", _metrics))
    }
    return json.dumps({"methods": methods, **others}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    COPIES.write_text(copies_text(), encoding="utf-8")
