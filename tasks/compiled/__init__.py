"""Models whose circuit is known, because they were compiled from a description of it; each is a task as well.

    >>> import circuits, tasks
    >>> from tasks import compiled
    >>> model = circuits.load_model("compiled/or-gate")
    >>> pairs = tasks.load("compiled/or-gate").pairs(model, n=4)
    >>> compiled.structural_edges(model)[-1]
    'm0->logits'
    >>> compiled.active_edges(model, pairs)
    ('m0->logits',)
    >>> len(compiled.jointly_active_edges(model, pairs))
    5

**Truth depends on the ablation and the data.** `structural_edges` says which edges can carry anything at all; what of that
makes a difference is found by brute force, for each ablation, set of pairs and metric: see `tasks.compiled.truth`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.compiled.compiler import Head as Head
    from tasks.compiled.compiler import Mlp as Mlp
    from tasks.compiled.compiler import Network as Network
    from tasks.compiled.compiler import compile_network as compile_network
    from tasks.compiled.program import Program as Program
    from tasks.compiled.structure import structural_edges as structural_edges
    from tasks.compiled.truth import active_edges as active_edges
    from tasks.compiled.truth import jointly_active_edges as jointly_active_edges

_WHERE = {
    "Head": "compiler",
    "Mlp": "compiler",
    "Network": "compiler",
    "Program": "program",
    "active_edges": "truth",
    "compile_network": "compiler",
    "jointly_active_edges": "truth",
    "structural_edges": "structure",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    # Names without torch, for those who only list tasks.
    if name not in _WHERE:
        raise AttributeError(f"module 'tasks.compiled' has no attribute {name!r}")
    return getattr(import_module(f"tasks.compiled.{_WHERE[name]}"), name)
