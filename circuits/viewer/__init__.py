"""The viewer: one HTML file that works offline and shows one circuit, or two side by side.

`discover` writes it into every run as `circuit.html`. The page embeds its data (`data.py`), a style sheet and scripts (one per
topic). It loads nothing from the network. All names are inserted as text, so they cannot inject markup or scripts.
"""

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.files.atomic import write_text
from circuits.results.circuit import Circuit
from circuits.results.feature_circuit import FeatureCircuit
from circuits.results.naming import Naming
from circuits.viewer.data import page_data
from circuits.viewer.feature_data import feature_page_data
from circuits.viewer.prompts import ShownPrompt, shown_prompts

__all__ = ["ShownPrompt", "is_viewer_page", "shown_prompts", "viewer_page", "write_feature_viewer", "write_viewer"]

MOST = 20_000
"""Most edges that a browser can draw."""
SCRIPTS = ("state", "layout", "tokens", "graph", "prompts", "naming", "features", "side", "start")
"""Scripts, in the order in which they run."""
MARK = '<meta name="generator" content="mech-circuits viewer">'


def write_viewer(
    circuits: Mapping[str, Circuit],
    path: str | Path,
    *,
    title: str | None = None,
    about: Sequence[str] = (),
    prompts: Sequence[ShownPrompt] = (),
    naming: Naming | None = None,
) -> None:
    """Writes the page of `viewer_page` to an HTML file."""
    page = viewer_page(circuits, title=title, about=about, prompts=prompts, naming=naming)
    write_text(path, page)


def viewer_page(
    circuits: Mapping[str, Circuit],
    *,
    title: str | None = None,
    about: Sequence[str] = (),
    prompts: Sequence[ShownPrompt] = (),
    naming: Naming | None = None,
) -> str:
    """The page as text.

    Args:
        circuits: name -> circuit; one or two circuits of one model. If all have the same spans, the page shows them over tokens
            as well as as graphs.
        title: title of the page; None: the circuits' names.
        about: sentences on the findings, shown below the title.
        prompts: from `shown_prompts`.
        naming: initial labels and groups.

    Raises:
        InputError: no circuit or more than two, circuits of two graphs, without edges, or with too many; or unknown nodes.
    """
    if not 1 <= len(circuits) <= 2:
        raise InputError(f"the viewer shows one circuit, or two side by side, not {len(circuits)}")
    one, *others = circuits.values()
    if any(other.graph.base != one.graph.base for other in others):
        raise InputError("the circuits belong to different graphs, so they cannot be compared node by node")
    for name, circuit in circuits.items():
        if len(circuit) > MOST:
            raise InputError(
                f"{name} has {len(circuit):,} edges; the viewer draws at most {MOST:,}: show the strongest with --edges N"
            )
    data = page_data(circuits, about, prompts, (naming or Naming()).checked(one.graph.base))
    return _page(title or " and ".join(circuits), data)


def write_feature_viewer(
    circuits: Mapping[str, FeatureCircuit],
    path: str | Path,
    *,
    title: str | None = None,
    about: Sequence[str] = (),
    prompts: Sequence[ShownPrompt] = (),
    naming: Naming | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes the page of one or two circuits of mixed nodes: features, errors, heads and MLPs.

    Args:
        circuits: name -> circuit.
        path: of the file.
        title, about, prompts, naming: see `viewer_page`.
        facts: of features, by name: `FeatureFacts.to_dict`.

    Raises:
        InputError: no circuit or more than two, or unknown nodes.
    """
    if not 1 <= len(circuits) <= 2:
        raise InputError(f"the viewer shows one circuit, or two side by side, not {len(circuits)}")
    data = feature_page_data(circuits, about, prompts, naming or Naming(), facts or {})
    write_text(path, _page(title or " and ".join(circuits), data))


def is_viewer_page(path: Path) -> bool:
    """Whether a file is a page of this viewer; older runs have another kind of page with the same name."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return MARK in file.read(400)
    except OSError:
        return False


def _page(title: str, data: dict[str, Any]) -> str:
    folder = files("circuits.viewer")
    style = (folder / "viewer.css").read_text(encoding="utf-8")
    scripts = "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    # Only `<` can end a script element; \u003c is the same character in JSON.
    written = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    names = dict.fromkeys(circuit["quantity"]["name"] for circuit in data["circuits"] if circuit["quantity"]["signed"])
    page = (folder / "viewer.html").read_text(encoding="utf-8")
    parts = {
        "mark": MARK, "title": html.escape(title), "style": style, "data": written, "scripts": scripts,
        "sign": html.escape(f"sign of the {' and '.join(names)}" if names else "nothing: scores without sign"),
        "shared": '<option value="shared">what both have</option>' if len(data["circuits"]) > 1 else "",
    }  # fmt: skip
    before, *pieces = page.split("{{")
    return before + "".join(parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces))
