"""All formats by name: one table for the command line, for `circuits.export_circuit`, and for the docs."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from circuits.errors import ContentWarning, InputError
from circuits.plain_torch import plain_torch
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming

DRAWN = ("naming", "max_edges", "colours", "direction")


@dataclass(frozen=True)
class Format:
    """A format that circuits are written in.

    Attributes:
        name: as `--to` takes it.
        suffix: of its files; none for a folder.
        where: module and function that write it.
        takes: options that it takes.
        every_edge: it wants the scores of all edges of the model, not just of the circuit's.
        carries: what can be read back from it.
    """

    name: str
    suffix: str
    where: str
    takes: tuple[str, ...]
    carries: str
    every_edge: bool = False

    @property
    def write(self) -> Callable[..., Any]:
        """The function (circuit, path, …) that writes it."""
        module, name = self.where.split(":")
        return getattr(import_module(f"circuits.export.{module}"), name)


FORMATS = {
    entry.name: entry
    for entry in (
        Format("json", ".json", "node_link:write_json", (), "everything, exactly"),
        Format("graphml", ".graphml", "graphml:write_graphml", ("naming",), "graph, effects, labels, provenance as text"),
        Format("gexf", ".gexf", "graphml:write_gexf", ("naming",), "graph, effects, labels"),
        Format("dot", ".dot", "dot:write_dot", DRAWN, "nodes and edges as drawn, effects to six digits"),
        Format("tikz", ".tex", "tikz:write_tikz", DRAWN, "a picture"),
        Format("tikzpicture", ".tikz", "tikz:write_tikzpicture", DRAWN, "a picture"),
        Format("svg", ".svg", "picture:write_svg", DRAWN, "a picture"),
        Format("pdf", ".pdf", "picture:write_pdf", DRAWN, "a picture"),
        Format("png", ".png", "picture:write_png", (*DRAWN, "dpi"), "a picture"),
        Format("latex-edges", ".tex", "tables:write_latex_edges", ("naming", "max_edges"), "a table"),
        Format("latex-nodes", ".tex", "tables:write_latex_nodes", ("naming",), "a table"),
        Format("csv-edges", ".csv", "tables:write_csv_edges", ("naming",), "edges and effects, exactly; labels"),
        Format("csv-nodes", ".csv", "tables:write_csv_nodes", ("naming",), "a table"),
        Format("eap-ig", ".json", "eap_ig:write_eap_ig", ("d_model",), "edges and effects, by our reader", True),
        Format(
            "eap-ig-tensors",
            ".safetensors",
            "eap_ig:write_eap_ig_tensors",
            ("d_model",),
            "edges and effects, by our reader",
            True,
        ),
        Format("mib", "", "mib:write_mib", ("d_model", "task", "model"), "as eap-ig", True),
        Format(
            "neuronpedia", ".json", "neuronpedia:write_neuronpedia", ("naming", "prompt", "tokens", "slug"),
            "nodes, and effects summed over q, k and v",
        ),
    )
}  # fmt: skip

_BY_SUFFIX = {".gv": "dot"}
for _entry in reversed(FORMATS.values()):
    _BY_SUFFIX[_entry.suffix] = _entry.name
del _BY_SUFFIX[""]


def find_format(name: str | None, out: str | Path) -> Format:
    """The format of this name, or, without one, that of the file's suffix.

    Raises:
        InputError: no such format; the nearest is offered.
    """
    if name is None:
        suffix = Path(out).suffix.lower()
        if suffix not in _BY_SUFFIX:
            raise InputError(f"{out}: no format has the suffix {suffix!r}; name one with --to: {', '.join(FORMATS)}")
        name = _BY_SUFFIX[suffix]
    if name not in FORMATS:
        near = get_close_matches(str(name).lower(), FORMATS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"there is no format {name!r}; {hint}There are {', '.join(FORMATS)}")
    return FORMATS[name]


@plain_torch
def export_circuit(
    circuit: Circuit,
    out: str | Path,
    to: str | None = None,
    *,
    naming: Naming | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Writes a circuit in any format.

    Args:
        circuit: any circuit.
        out: the file, or for `mib` the folder.
        to: the format's name; None: by the suffix of `out`.
        naming: labels and groups of nodes.
        overwrite: replace what is there.
        options: the format's own, as `max_edges=200`, `direction="right"`, `colours="kind"`, `dpi=300`, `d_model=768`.

    Returns:
        the file written.

    Raises:
        InputError: no such format, an option that it does not take, or a file that is there already.
    """
    form, out = find_format(to, out), Path(out)
    given = options | ({"naming": naming} if naming else {})
    unused = [name for name in given if name not in form.takes]
    if unused:
        takers = [other.name for other in FORMATS.values() if unused[0] in other.takes]
        others = f"; these do: {', '.join(takers)}" if takers else ""
        raise InputError(f"format {form.name} takes no {_told(unused[0])}{others}")
    _warn_if_empty(form, circuit, out)
    if not form.suffix:
        return form.write(circuit, out, overwrite=overwrite, **given)
    if out.is_dir():
        raise InputError(f"{out} is a directory; format {form.name} is written to a file")
    if (out.exists() or out.is_symlink()) and not overwrite:
        raise InputError(f"{out} is there already; use --overwrite to replace it, or choose another --out")
    form.write(circuit, out, **given)
    return out


def _warn_if_empty(form: Format, circuit: Circuit, out: Path) -> None:
    """Nothing is wrong with an empty circuit, but most who export one have asked for something else."""
    if len(circuit) or (form.every_edge and circuit.scores is not None):
        return
    reason = ""
    if "selection" in circuit.provenance:
        reason = ": no edge that was chosen is on a path from input to logits; choose more"
    elif circuit.scores is not None:
        reason = "; there are scores: choose the strongest edges by them, with --edges N (circuits.EdgeScores.top)"
    warnings.warn(f"the circuit has no edges, so {out} has none{reason}", ContentWarning, stacklevel=3)


def _told(option: str) -> str:
    return "labels or groups" if option == "naming" else f"option {option}"
