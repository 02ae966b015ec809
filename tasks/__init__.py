"""Tasks, found by name: sources of prompt pairs for a behaviour.

A task is an entry point of the group `circuits.tasks`, here or in another package: a class derived from `tasks.base.Task`. The
tasks of this package also work without entry points, so that a checkout works before it is installed. Some have a model of
their own with a known circuit (`tasks.compiled`), which is an entry point of the group `circuits.models`.
"""

from typing import TYPE_CHECKING, Any

from circuits import plugins

if TYPE_CHECKING:
    from tasks.base import Task

COMPILED = {
    "compiled/and-gate": "tasks.compiled.gates:AndGate",
    "compiled/dyck": "tasks.compiled.counting:Dyck",
    "compiled/fraction": "tasks.compiled.counting:Fraction",
    "compiled/greater-than": "tasks.compiled.gates:GreaterDigit",
    "compiled/histogram": "tasks.compiled.counting:Histogram",
    "compiled/induction": "tasks.compiled.copying:Induction",
    "compiled/negative-head": "tasks.compiled.copying:NegativeHead",
    "compiled/or-gate": "tasks.compiled.gates:OrGate",
    "compiled/reverse": "tasks.compiled.copying:Reverse",
    "compiled/sort": "tasks.compiled.copying:Sort",
    "trained/induction": "tasks.trained.induction:TrainedInduction",
}
"""Tasks that are also the model of the same name."""
BUILT_IN = {
    "acronym": "tasks.acronym:Acronym",
    "addition": "tasks.addition:Addition",
    "antonym": "tasks.antonym:Antonym",
    "capital": "tasks.capital:Capital",
    "docstring": "tasks.docstring:Docstring",
    "gendered-pronoun": "tasks.gendered_pronoun:GenderedPronoun",
    "greater-than": "tasks.greater_than:GreaterThan",
    "hypernym": "tasks.hypernym:Hypernym",
    "induction": "tasks.induction:Induction",
    "ioi": "tasks.ioi:IOI",
    "official-language": "tasks.official_language:OfficialLanguage",
    "open-bracket": "tasks.open_bracket:OpenBracket",
    "past-tense": "tasks.past_tense:PastTense",
    "sentiment": "tasks.sentiment:Sentiment",
    "subject-verb-agreement": "tasks.subject_verb_agreement:SubjectVerbAgreement",
    "successor": "tasks.successor:Successor",
    **COMPILED,
}

plugins.provide(plugins.GROUP, BUILT_IN)
plugins.provide(plugins.MODELS, COMPILED)


def names() -> list[str]:
    """The names of all tasks that can be loaded.

    >>> "ioi" in names()
    True
    """
    return plugins.task_names()


def load(name: str, **options: Any) -> "Task":
    """The task of that name; `_` and `-` are the same in it.

    Args:
        name: see `names()`.
        options: of the task, such as `counterfactual` of `ioi`.

    Raises:
        InputError: no task has that name or option, or its package cannot be loaded.

    >>> load("ioi", counterfactual="abc").label
    'ioi(counterfactual=abc)'
    """
    return plugins.load_task(name, **options)


def __getattr__(name: str) -> Any:
    # `tasks.Task` is loaded on first use, so that names can be listed without torch.
    if name in ("At", "Draw", "Example", "Source", "Task", "UnusableError", "Words"):
        from tasks import base

        return getattr(base, name)
    raise AttributeError(f"module 'tasks' has no attribute {name!r}")
