"""What `circuits view` shows of runs and files: circuits under the names of their methods, and what was found."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from circuits.errors import InputError
from circuits.results.circuit import Circuit
from circuits.results.recorded import method_name
from circuits.runs.files import read_run_file
from circuits.runs.findings import circuit_findings, run_title
from circuits.runs.source import read_source
from circuits.viewer import is_viewer_page

PAGES = ("circuit.html", "heatmap.html")
"""What a run brings."""


def own_page(target: Path) -> Path | None:
    """The page that a run was written with; None where there is none that this version would write."""
    pages = [target / name for name in PAGES]
    return next((page for page in pages if page.is_file() and (page.name != PAGES[0] or is_viewer_page(page))), None)


def named_circuits(paths: Sequence[Path], edges: int | None = None) -> dict[str, Circuit]:
    """The circuits of one or two runs or files, each by its method; two of one method also by their directory or file.

    Args:
        paths: as `read_source` takes them.
        edges: so many of the strongest scored edges instead.

    Raises:
        InputError: see `read_source`; or a circuit without edges.
    """
    circuits = [read_source(path, edges).circuit for path in paths]
    for path, circuit in zip(paths, circuits, strict=True):
        if not len(circuit):
            raise InputError(f"{path} holds a circuit without edges; show the strongest edges with --edges N")
    places = [path.resolve().stem for path in paths]
    places = places if len(set(places)) == len(places) else list(map(str, paths))
    methods = [method_name(c.provenance) if c.provenance.get("method") else None for c in circuits]
    alike = len(set(methods)) < len(methods)
    names = [place if m is None else f"{m} ({place})" if alike else m for m, place in zip(methods, places, strict=True)]
    return dict(zip(names, circuits, strict=True))


def about_circuits(paths: Sequence[Path], circuits: Mapping[str, Circuit], chosen: bool) -> tuple[str, list[str]]:
    """A title, and sentences on what was found.

    Args:
        paths: where the circuits come from.
        circuits: by name.
        chosen: whether the circuits are the runs' own.
    """
    origin = next(iter(circuits.values())).provenance
    where = f"{origin.get('task') or 'pairs'} in {origin.get('model')}: " if origin.get("model") else ""
    title = where + " and ".join(circuits)
    if len(paths) == 1 and chosen and paths[0].is_dir():
        run = read_run_file(paths[0])
        return run_title(run["provenance"]), list(circuit_findings(run.get("summary") or {}, run["provenance"]))
    if len(paths) == 1:
        return title, []
    one, other = circuits.values()
    shared = len(one & other)
    return title, [f"The circuits share {shared:,} of {len(one):,} and {len(other):,} edges."]
