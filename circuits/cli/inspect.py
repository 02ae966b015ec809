"""`circuits inspect`: one kind of evidence of what parts of a model do on a task, as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.cli import completion
from circuits.cli.common import DEFAULT_MODEL, LARGEST_SEED, find_pairs, in_words, load, names_in
from circuits.cli.discover_options import Target
from circuits.cli.file_pairs import FilePairs, note_unfit
from circuits.cli.groups import grouped
from circuits.cli.options import BatchSize, Device, Dtype, Revision
from circuits.cli.terminal import print_json, print_rows, say, stage
from circuits.errors import InputError
from circuits.plugins import check_model_path
from circuits.shown import first_rows

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.prompts.pairs import PromptPairs


@dataclass(frozen=True)
class View:
    """One kind of evidence.

    Attributes:
        function: the public function of `circuits`.
        help: a few words.
        nodes: its parameter that takes the names of `--nodes`; None: it has none.
        needs: what must be given.
        takes: what may be given.
        legend: what the columns of its table mean, if their names do not say it.
        single: it takes one node.
        pairs, batches, progress: whether it takes these.
    """

    function: str
    help: str
    nodes: str | None = None
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    legend: str = ""
    single: bool = False
    pairs: bool = True
    batches: bool = True
    progress: bool = True


VIEWS = {
    "direct": View("direct_effects", "what each writer adds to the metric", "nodes", takes=("positions",)),
    "lens": View("logit_lens", "what the model would predict after each layer"),
    "attention": View("attention", "attention between the task's roles", "heads"),
    "kinds": View(
        "head_kinds",
        "kinds of heads, with their nulls",
        takes=("kind",),
        legend="score: 0 to 1; null: mean score of heads that look in random directions; p: share of these that score as high.",
        batches=False,
    ),
    "ov": View(
        "ov_scores",
        "which heads copy or suppress tokens, from their weights",
        "heads",
        ("nodes",),
        pairs=False,
        batches=False,
    ),
    "terms": View("query_key_terms", "why a head looks at a token", "head", ("nodes", "key"), ("query",), single=True),
    "neurons": View("top_neurons", "the neurons of MLPs that matter most", "mlps", ("nodes",), progress=False),
    "self-repair": View(
        "self_repair",
        "what other writers do when a node is ablated",
        "nodes",
        ("nodes",),
        legend="total: what the metric loses when the node is ablated; direct: what it would lose if no other writer changed; others: "
        "how the direct effects of other writers change (of the sign of direct: they make up for the node); norm: what the final norm's scale adds; "
        "backups: writers that make up for it beyond chance. total = direct - others + norm.",
    ),
}


def _known(view: str) -> str:
    if view not in VIEWS:
        raise InputError(f"unknown evidence {view!r}; choose one of {', '.join(VIEWS)}")
    return view


@dataclass(frozen=True)
class Where:
    """Which parts."""

    nodes: Annotated[
        str | None, typer.Option(help="Names such as a5.h2,m7, comma separated; or groups: heads, mlps. Default: all.")
    ] = None
    positions: Annotated[
        str | None, typer.Option(help="direct: by source token: roles, each, or names of roles, comma separated.")
    ] = None
    key: Annotated[str | None, typer.Option(help="terms: the role or token that the head attends to.")] = None
    query: Annotated[
        str | None, typer.Option(help="terms: the role that the head attends from. Default: the answer position.")
    ] = None
    kind: Annotated[str | None, typer.Option(help="kinds: only this one, such as 'name mover'.")] = None

    def options(self, view: View) -> dict[str, Any]:
        """Keyword arguments of the view's function.

        Raises:
            InputError: something is missing, or is of another view.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        known = {*view.needs, *view.takes, *(["nodes"] if view.nodes else [])}
        for name in given.keys() - known:
            raise InputError(f"--{name} is not for this evidence ({view.help}), which takes {_options(known)}")
        for name in set(view.needs) - given.keys():
            raise InputError(f"{view.function} needs --{name}: it is for {view.help}")
        options: dict[str, Any] = {name: given[name] for name in ("key", "query") if name in given}
        for name, parameter in (("nodes", view.nodes), ("positions", "positions")):
            if name in given:
                options[str(parameter)] = _one_or_many(given[name], view.single and name == "nodes")
        return options


def _options(names: set[str]) -> str:
    return ", ".join(f"--{name}" for name in sorted(names)) or "none of these options"


def _one_or_many(text: str, single: bool) -> str | list[str]:
    names = names_in(text) or []
    if single and len(names) != 1:
        raise InputError(f"--nodes must be one head, got {text!r}")
    return names[0] if single or names in (["heads"], ["mlps"], ["neurons"], ["roles"], ["each"]) else names


@grouped
def inspect(
    view: Annotated[
        str,
        typer.Argument(
            help=in_words({name: view.help for name, view in VIEWS.items()}), metavar="WHAT", callback=_known,
            autocompletion=completion.choices(list(VIEWS)),
        ),
    ],
    target: Target,
    where: Where,
    reading: FilePairs,
    model: Annotated[
        str, typer.Option(help="Short name, Hugging Face id, or directory.", autocompletion=completion.models)
    ] = DEFAULT_MODEL,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Pairs. Default: 64 of a task, all of a file.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the pairs.", min=0, max=LARGEST_SEED)] = 0,
    top: Annotated[int, typer.Option(help="Rows to print.", min=1)] = 20,
    batch_size: BatchSize = None,
    dtype: Dtype = None,
    device: Device = "auto",
    revision: Revision = None,
    json: Annotated[bool, typer.Option("--json", help="Print all rows as JSON instead of a table.")] = False,
) -> None:  # fmt: skip
    """Show one kind of evidence of what parts do on a task: direct effects, attention, kinds of heads, neurons, self-repair …"""
    asked = VIEWS[view]
    options, source = where.options(asked), find_pairs(target)
    how = reading.check(source)
    check_model_path(model)
    loaded = load(model, dtype, device, revision)
    pairs = source(loaded, n, seed, reading=how)
    note_unfit(pairs)
    result = measured(asked, loaded, pairs, options, batch_size)
    result = result if where.kind is None else result.only(where.kind)
    if json:
        print_json({"what": view, "rows": plain_rows(result.rows())})
        return
    say(repr(result))
    shown = first_rows(result, top)
    print_rows(asked.help, list(shown[0]) if shown else [], [[_cell(value) for value in row.values()] for row in shown])
    if asked.legend:
        say(asked.legend)


def measured(
    view: View, model: "Model", pairs: "PromptPairs", options: Mapping[str, Any], batch_size: int | None
) -> Any:
    """The result of a view's function."""
    import circuits

    with stage(view.help) as progress:
        more: dict[str, Any] = {"progress": progress} if view.progress else {}
        more |= {"batch_size": batch_size} if view.batches else {}
        result = getattr(circuits, view.function)(model, *([pairs] if view.pairs else []), **options, **more)
        return result.by_span() if view.function == "attention" else result


def plain_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as JSON values, with null for NaN."""
    from circuits.results.provenance import finite

    return [{name: finite(v) if isinstance(v, float) else v for name, v in row.items()} for row in rows]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
