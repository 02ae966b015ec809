"""The table of formats, for the command line, `circuits.export_circuit` and the docs.

A format is a function in a file, and an entry here. Nothing heavy is imported.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from circuits.errors import InputError

DRAWN = ("naming", "max_edges", "colours", "direction", "layout", "words")


@dataclass(frozen=True)
class Format:
    """A format of circuits.

    Attributes:
        name: the value of `--to`.
        suffix: of its files; empty for a folder.
        where: module and function that write it.
        takes: its options.
        carries: what can be read back from it.
        every_edge: it has the scores of all edges of the model, not only of the circuit's.
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

    def check(self, out: Path, options: Iterable[str], overwrite: bool) -> None:
        """Refuses what no circuit could make right.

        Raises:
            InputError: an option that the format does not take, or a file that is there already.
        """
        for name in options:
            if name not in self.takes:
                takers = [other.name for other in FORMATS.values() if name in other.takes]
                others = f"; these do: {', '.join(takers)}" if takers else ""
                what = "labels or groups" if name == "naming" else f"option {name}"
                raise InputError(f"format {self.name} takes no {what}{others}")
        if self.suffix and out.is_dir():
            raise InputError(f"{out} is a directory; format {self.name} is written to a file")
        if self.suffix and (out.exists() or out.is_symlink()) and not overwrite:
            raise InputError(f"{out} already exists; use --overwrite to replace it, or choose another --out")


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
            "eap-ig-tensors", ".safetensors", "export.eap_ig:write_eap_ig_tensors", ("d_model",),
            "edges and effects, by our reader", True,
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
    """The format of this name, or without a name, of the file's suffix; InputError if there is none."""
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
