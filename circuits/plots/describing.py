"""Figures of descriptions: attention on a prompt, and the logit lens."""

from typing import TYPE_CHECKING, Any

from circuits.errors import InputError
from circuits.plots.figure import Figure
from circuits.plots.page import NEGATIVE, POSITIVE, SIZE, escaped

if TYPE_CHECKING:
    from circuits.descriptions.attention import Attention
    from circuits.descriptions.logit_lens import LogitLens


def attention_heatmap(attention: "Attention", head: str, pair: int = 0) -> Figure:
    """A head's attention on one prompt, queries downwards.

    Raises:
        InputError: the head or the pair is not among these.
    """
    if head not in attention.pattern:
        raise InputError(f"there is no head {head!r} here; there are {', '.join(attention.heads[:5])} …")
    if not 0 <= pair < len(attention.tokens):
        raise InputError(f"there is no pair {pair}; there are {len(attention.tokens)}, counted from 0")
    tokens = attention.tokens[pair]
    n = len(tokens)
    weights = attention.pattern[head][pair, :n, :n].tolist()
    labels = [escaped(token) for token in tokens]
    hover = [[f"{labels[i]} ({i}) looks at {labels[j]} ({j}): {weights[i][j]:.3f}" for j in range(n)] for i in range(n)]
    figure = Figure()
    figure.add_heatmap(
        z=weights, zmin=0, zmax=1, colorscale=[(0.0, "#ffffff"), (1.0, SIZE)], hovertext=hover, hoverinfo="text",
        colorbar={"title": "attention"},
    )  # fmt: skip
    places: dict[str, Any] = {"tickmode": "array", "tickvals": list(range(n)), "ticktext": labels}
    figure.update_xaxes(title="key", **places)
    figure.update_yaxes(title="query", autorange="reversed", **places)
    figure.update_layout(title=f"{head}, clean prompt of pair {pair}", template="plotly_white")
    return figure


def lens_lines(lens: "LogitLens") -> Figure:
    """Mean logits of the answers and the distractors by layer."""
    figure = Figure()
    hover = [" ".join(map(escaped, texts[0])) for texts in lens.top_texts]
    for name, values, colour in (("answer", lens.answer, POSITIVE), ("distractor", lens.distractor, NEGATIVE)):
        if not bool(values.isnan().all()):
            figure.add_scatter(
                x=list(lens.stages), y=values.nanmean(1).tolist(), name=name, mode="lines+markers", line={"color": colour},
                hovertext=hover,
            )  # fmt: skip
    figure.update_layout(title="Logits of the residual stream after each layer", template="plotly_white")
    figure.update_yaxes(title="mean logit")
    return figure
