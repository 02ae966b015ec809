"""What each node of a circuit does, in one line per node, with the numbers and their null values.

A line has, as far as they are known: the node's kind (`circuits.head_kinds`); what it copies; where it looks, beside what uniform
attention would give; its direct effect on the metric and the token that this comes from; the neurons of an MLP that stand out; and
what it reads and feeds in the circuit. Nothing else is claimed: a head without a kind above its null gets no label, and
`Description.unsaid` names it.
"""

from circuits.descriptions.description import Description, DescriptionTest
from circuits.descriptions.evidence import Evidence
from circuits.descriptions.implied_tests import clean_runs, edge_tests, mover_test, suppressor_test, whole_question
from circuits.errors import InputError
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.provenance import provenance

DRAWS = 19
"""Rotated heads for the null of kinds."""
MOST_TESTS = 6
"""Edges that are tested, and movers that are tested."""


@on_model
def describe(
    model: Model,
    pairs: PromptPairs,
    circuit: Circuit,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    tests: bool = True,
    stage: StageProgress = silent,
) -> Description:
    """Describes every node of a circuit.

    Args:
        model: the circuit's model.
        pairs: the task's prompts.
        circuit: the circuit.
        seed: of the random sequences and rotations of `head_kinds`.
        draws: rotated heads for the null of each kind, at least 19.
        tests: run the interventions that the description implies; they take a few forward passes each.
        stage: progress reporting.

    Raises:
        InputError: the circuit is empty, or of another graph.
        ModelError: the model does not show its attention.
    """
    if circuit.places is not None:
        raise InputError("this circuit has places, and descriptions are of whole nodes: give circuit.without_places()")
    if circuit.graph != model.graph:
        raise InputError(f"the circuit is of another graph than {model.name}: give the circuit's own model")
    if not len(circuit):
        raise InputError("the circuit has no edges, so there is nothing to describe")
    evidence = Evidence.measure(model, pairs, circuit, seed, draws, stage)
    lines = tuple(evidence.line(node) for node in circuit.nodes if node != "logits")
    labels = {line.node: line.label for line in lines if line.label is not None}
    groups = {plural(label): nodes for label in dict.fromkeys(labels.values())
              if len(nodes := tuple(node for node, own in labels.items() if own == label)) > 1}  # fmt: skip
    pairs.require_one_token("describe")
    question = whole_question(model, pairs)
    results: tuple[DescriptionTest, ...] = ()
    if tests:
        with stage("testing the description") as progress:
            results = _tests(question, circuit, evidence, labels)
            progress(1, 1)
    options = {"seed": seed, "draws": draws, "tests": tests, "edges": len(circuit)}
    return Description(
        lines, labels, groups, results, evidence.unsaid(lines), provenance(question, "describe", options)
    )


def plural(label: str) -> str:
    """The name of a group of nodes.

    >>> plural("name mover"), plural("S-inhibition")
    ('name movers', 'S-inhibition heads')
    """
    return f"{label}s" if label.endswith(("mover", "suppressor", "embedding", "reader")) else f"{label} heads"


def _tests(
    question: Question, circuit: Circuit, evidence: Evidence, labels: dict[str, str]
) -> tuple[DescriptionTest, ...]:
    tests = {
        "induction": lambda node, runs: mover_test(question, node, 1, runs),
        "name mover": lambda node, runs: mover_test(question, node, 1, runs),
        "negative mover": lambda node, runs: mover_test(question, node, -1, runs),
        "wrong-answer suppressor": lambda node, runs: suppressor_test(question, node, runs),
    }
    heads = [node for node, label in labels.items() if label in tests and evidence.moves(node)]
    heads = sorted(heads, key=lambda node: -abs(evidence.direct[node]))[:MOST_TESTS]
    runs = clean_runs(question, heads) if heads else ()
    made = [tests[labels[node]](node, runs) for node in heads]
    return (*(test for test in made if test is not None), *edge_tests(question, circuit, labels, MOST_TESTS))
