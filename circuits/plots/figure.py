"""Plotly figures that send nothing to the network.

Plotly's figures have a button that uploads the chart to a cloud service, and a logo with a link. A page can be written without
them, but a notebook shows a figure with plotly's configuration. This class removes the button in the figure itself, and sets the
configuration in every method that shows or writes it.
"""

from typing import Any

import plotly.graph_objects as go

CONFIG = {"displaylogo": False, "showSendToCloud": False, "plotlyServerURL": ""}
"""Plotly's configuration of every page; all supported versions have these names."""
UPLOADS = ("sendChartToCloud", "sendDataToCloud", "editInChartStudio")
"""The names of upload buttons in all versions of plotly.js."""


class Figure(go.Figure):
    """A plotly figure without upload buttons and external links.

    >>> Figure().layout.modebar.remove[0]
    'sendChartToCloud'
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.update_layout(modebar={"remove": list(UPLOADS)})

    def show(self, *args: Any, **kwargs: Any) -> Any:
        return super().show(*args, **_configured(kwargs))

    def to_html(self, *args: Any, **kwargs: Any) -> Any:
        return super().to_html(*args, **_configured(kwargs))

    def write_html(self, *args: Any, **kwargs: Any) -> Any:
        return super().write_html(*args, **_configured(kwargs))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, validate: bool = True, **kwargs: Any) -> Any:
        return super()._repr_mimebundle_(include, exclude, validate, **_configured(kwargs))

    def _ipython_display_(self) -> None:
        """As plotly's method, but with `show` of this class."""
        import plotly.io as pio

        if pio.renderers.render_on_display and pio.renderers.default:
            self.show()
        else:
            print(repr(self))


def subplots(**options: Any) -> Figure:
    """Panels side by side; options of plotly's `make_subplots`."""
    from plotly.subplots import make_subplots

    figure = Figure()
    make_subplots(figure=figure, **options)
    return figure


def _configured(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a call, with `CONFIG` as the default of `config`."""
    return {**options, "config": {**CONFIG, **(options.get("config") or {})}}
