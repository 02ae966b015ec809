"""Figures and pages of results, inside a notebook.

`plot` and `view` are also methods of the results (`circuits.shown`), which lie below the modules that draw.
"""

import tempfile
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from circuits.descriptions.attention import Attention
from circuits.descriptions.logit_lens import LogitLens
from circuits.errors import InputError
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores


@dataclass(frozen=True)
class Drawing:
    """A picture that a notebook shows.

    Attributes:
        svg: the picture.
    """

    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Writes the SVG to a file. `circuits.export_circuit` writes PDF, PNG and TikZ."""
        from circuits.files.atomic import write_text

        write_text(path, self.svg)


@dataclass(frozen=True)
class Page:
    """A page that a notebook shows in a frame.

    Attributes:
        html: the whole page.
        height: of the frame, in pixels.
    """

    html: str = field(repr=False)
    height: int = 700

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{self.height}px;border:1px solid #ccc"
        return f'<iframe srcdoc="{escape(self.html)}" style="{style}" sandbox="allow-scripts allow-downloads"></iframe>'

    def save(self, path: str | Path) -> None:
        """Writes the page to a file."""
        from circuits.files.atomic import write_text

        write_text(path, self.html)


def plot(result: NodeScores | EdgeScores | Circuit | Attention | LogitLens, **options: Any) -> Any:
    """A figure of a result.

    Args:
        result: scores of nodes: a heat map of layers × heads, or of nodes × positions; scores of edges: a heat map of the
            sums over each node's out-edges; a circuit: its graph; attention: a heat map of one head; a logit lens: its lines.
        options: of `circuits.plots.node_heatmap`, `circuits.plots.position_heatmap`, `circuits.plots.attention_heatmap`, or
            `circuits.export.drawing.draw`.

    Returns:
        A plotly figure, or a `Drawing` of a circuit.

    Raises:
        InputError: scores of edges without effects per prompt, or no Graphviz to draw a circuit with.
    """
    if isinstance(result, Circuit):
        from circuits.export.picture import write_svg

        with tempfile.TemporaryDirectory() as place:
            write_svg(result, Path(place) / "circuit.svg", **options)
            return Drawing((Path(place) / "circuit.svg").read_text(encoding="utf-8"))
    from circuits.plots import attention_heatmap, lens_lines, node_heatmap, position_heatmap

    if isinstance(result, Attention):
        return attention_heatmap(result, **options)
    if isinstance(result, LogitLens):
        return lens_lines(result)
    nodes = result.to_nodes() if isinstance(result, EdgeScores) else result
    return node_heatmap(nodes, **options) if nodes.positions is None else position_heatmap(nodes, **options)


def view(
    circuit: Circuit, model: Model | None = None, pairs: PromptPairs | None = None, pair: int = 0, height: int = 700
) -> Page:
    """The viewer's page of a circuit; see `docs/viewer.md`.

    Args:
        circuit: the circuit.
        model, pairs: with both, the page also shows the prompts and the attention of the circuit's heads.
        pair: number of the first pair that is shown.
        height: of the frame, in pixels.

    Raises:
        InputError: only one of `model` and `pairs`, or a pair that does not exist.
    """
    from circuits.viewer import shown_prompts, viewer_page

    if (model is None) != (pairs is None):
        raise InputError("view shows prompts with both a model and pairs; give both, or neither")
    prompts = () if model is None or pairs is None else shown_prompts(model, pairs, [circuit], pair)
    return Page(viewer_page({"circuit": circuit}, prompts=prompts), height)
