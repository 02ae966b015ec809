"""Models with a known circuit, since they are compiled from a description of it; each is also a task.

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

**Truth depends on the ablation and the data.** `structural_edges` are the edges that can have any effect. Which of them do is
found by brute force, for each ablation, set of pairs and metric: see `tasks.compiled.truth`.
"""

from tasks.compiled.compiler import Head, Mlp, Network, compile_network
from tasks.compiled.program import Program
from tasks.compiled.structure import structural_edges
from tasks.compiled.truth import active_edges, jointly_active_edges
from tasks.compiled.two_ways import TwoWays

__all__ = [
    "Head", "Mlp", "Network", "Program", "TwoWays", "active_edges", "compile_network", "jointly_active_edges", "structural_edges",
]  # fmt: skip
