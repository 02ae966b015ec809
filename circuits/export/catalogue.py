"""All formats by name: one table for the command line, for `circuits.export_circuit`, and for the docs.

A format is a function in a file, and an entry here. Nothing heavy is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from circuits.errors import InputError

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
    def printed(self) -> bool:
        """Whether it is a figure as it stands."""
        return "colours" in self.takes and self.name != "dot"

    @property
    def write(self) -> Callable[..., Any]:
        """The function (circuit, path, …) that writes it."""
        module, name = self.where.split(":")
        return getattr(import_module(f"circuits.{module}"), name)


FORMATS = {
    entry.name: entry
    for entry in (
        Format("json", ".json", "results.circuit_file:write_json", (), "everything, exactly"),
        Format("graphml", ".graphml", "results.graphml:write_graphml", ("naming",), "graph, effects, labels, provenance as text"),
        Format("gexf", ".gexf", "results.graphml:write_gexf", ("naming",), "graph, effects, labels"),
        Format("dot", ".dot", "export.dot:write_dot", DRAWN, "nodes and edges as drawn, effects to six digits"),
        Format("tikz", ".tex", "export.tikz:write_tikz", DRAWN, "a picture"),
        Format("tikzpicture", ".tikz", "export.tikz:write_tikzpicture", DRAWN, "a picture"),
        Format("svg", ".svg", "export.picture:write_svg", DRAWN, "a picture"),
        Format("pdf", ".pdf", "export.picture:write_pdf", DRAWN, "a picture"),
        Format("png", ".png", "export.picture:write_png", (*DRAWN, "dpi"), "a picture"),
        Format("latex-edges", ".tex", "export.tables:write_latex_edges", ("naming", "max_edges"), "a table"),
        Format("latex-nodes", ".tex", "export.tables:write_latex_nodes", ("naming",), "a table"),
        Format("csv-edges", ".csv", "export.tables:write_csv_edges", ("naming",), "edges and effects, exactly; labels"),
        Format("csv-nodes", ".csv", "export.tables:write_csv_nodes", ("naming",), "a table"),
        Format("eap-ig", ".json", "export.eap_ig:write_eap_ig", ("d_model",), "edges and effects, by our reader", True),
        Format(
            "eap-ig-tensors",
            ".safetensors",
            "export.eap_ig:write_eap_ig_tensors",
            ("d_model",),
            "edges and effects, by our reader",
            True,
        ),
        Format("mib", "", "export.mib:write_mib", ("d_model", "task", "model"), "as eap-ig", True),
        Format(
            "neuronpedia", ".json", "export.neuronpedia:write_neuronpedia", ("naming", "prompt", "tokens", "slug"),
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
