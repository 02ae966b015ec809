"""Interchange interventions: do some nodes play the role of a variable of a high-level causal model?

(Causal abstraction: Geiger et al. 2021, 2106.02997; 2023, 2301.04709.) An alignment maps variables V of a causal model to sets of
nodes N_V. For a base prompt b (the clean one) and a source prompt s (the corrupted one), both models receive the same
intervention: V, and N_V jointly, are set to their values on the source.

    expected  = token_of(causal model on b, V <- V(s))
    predicted = argmax logits(model on b, N_V <- N_V(s))
    accuracy  = share of pairs with predicted = expected          (interchange intervention accuracy, IIA)

IIA lies between 0 and 1. If it is 1 for all variables, and for all of them together, the causal model abstracts the model on these
pairs. Report two numbers beside it. *Without intervention*: if the causal model does not predict the model's behaviour, no
alignment can. *Informative pairs*, on which the intervention changes the causal model's output: on all others, nodes without any
effect score as high as the right ones.

All variables of one intervention take their values from one source; Geiger et al. allow one source per variable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index as as_integer
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest
from torch import Tensor

from circuits.engine.hooks import inference_state
from circuits.engine.patch import Patch, patched_logits, record_values
from circuits.engine.resume import base_run
from circuits.errors import InputError
from circuits.methods.alignment import NodeAt, align
from circuits.methods.causal_model import CausalModel
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.positions import tokens_at
from circuits.question.question import Batch, Question
from circuits.results.provenance import Provenance, frozen, provenance
from circuits.shown import Shown


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class InterchangeAccuracy(Shown):
    """Agreement between the model and the causal model under interventions.

    Attributes:
        variables: names of the variables; those intervened on together are joined by `+`.
        predicted: the model's token under each intervention.
        expected: the causal model's token.
        predicted_alone, expected_alone: the same without intervention, on base (clean) and source (corrupted) prompts.
        provenance: origin of the numbers.
    """

    variables: tuple[str, ...]
    predicted: Int[Tensor, "variable prompt"]
    expected: Int[Tensor, "variable prompt"]
    predicted_alone: Int[Tensor, "2 prompt"]
    expected_alone: Int[Tensor, "2 prompt"]
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    @property
    def correct(self) -> Bool[Tensor, "variable prompt"]:
        """Whether model and causal model agree under the intervention."""
        return self.predicted == self.expected

    @property
    def informative(self) -> Bool[Tensor, "variable prompt"]:
        """Whether the intervention changes the causal model's output."""
        return self.expected != self.expected_alone[0]

    @property
    def values(self) -> Float[Tensor, " variable"]:
        """Interchange intervention accuracy over all pairs."""
        return self.correct.double().mean(1)

    @property
    def informative_values(self) -> Float[Tensor, " variable"]:
        """The accuracy over informative pairs only; NaN if there are none."""
        return (self.correct & self.informative).sum(1).double() / self.n_informative

    @property
    def n_informative(self) -> Int[Tensor, " variable"]:
        """Number of informative pairs."""
        return self.informative.sum(1)

    @property
    def behaviour(self) -> float:
        """Share of base and source prompts on which the causal model predicts the model's token without intervention."""
        return float((self.predicted_alone == self.expected_alone).double().mean())

    @property
    def n_prompts(self) -> int:
        return self.expected.shape[1]

    def interval(
        self, level: float = 0.95, informative: bool = False
    ) -> tuple[Float[Tensor, " variable"], Float[Tensor, " variable"]]:
        """Wilson's score interval of each accuracy; NaN if there are no pairs.

        Args:
            level: coverage.
            informative: use the accuracy over informative pairs instead of all pairs.

        Raises:
            InputError: the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise InputError(f"level must be between 0 and 1, got {level}")
        counted = self.informative if informative else torch.ones_like(self.correct)
        ends = [
            tuple(binomtest(k, n).proportion_ci(level, method="wilson")) if n else (torch.nan, torch.nan)
            for k, n in zip((self.correct & counted).sum(1).tolist(), counted.sum(1).tolist(), strict=True)
        ]
        low, high = torch.tensor(ends, dtype=torch.float64).T
        return low, high

    def to_dict(self) -> dict[str, float]:
        """`{variable: accuracy}` over all pairs."""
        return dict(zip(self.variables, self.values.tolist(), strict=True))

    def __getitem__(self, variable: str) -> float:
        """The accuracy of a variable, or of several intervened on together (`x+y`)."""
        if variable not in self.variables:
            raise InputError(f"nothing was measured for {variable!r}; measured: {', '.join(self.variables)}")
        return self.to_dict()[variable]

    def rows(self) -> list[dict[str, Any]]:
        """One row per variable: its accuracy with a 95% Wilson interval, and the accuracy on informative pairs."""
        numbers = (self.values, *self.interval(), self.informative_values, self.n_informative)
        names = ("variable", "accuracy", "low", "high", "informative_accuracy", "informative_pairs")
        columns = zip(self.variables, *(each.tolist() for each in numbers), strict=True)
        return [dict(zip(names, row, strict=True)) for row in columns]

    def __str__(self) -> str:
        rows = [
            f"  {name}: {value:.3f} [{low:.3f}, {high:.3f}]; {at:.3f} on {n} informative pairs"
            for name, value, low, high, at, n in (row.values() for row in self.rows())
        ]
        first = (
            f"interchange intervention accuracy ({self.n_prompts} pairs, 95% Wilson intervals); without intervention the "
            f"causal model predicts {self.behaviour:.3f} of the prompts"
        )
        return "\n".join([first, *rows])

    def __repr__(self) -> str:
        accuracies = ", ".join(f"{name} {value:.3f}" for name, value in self.to_dict().items())
        return f"InterchangeAccuracy({accuracies}; {self.n_prompts} pairs)"


@on_model
def interchange_interventions(
    model: Model,
    pairs: PromptPairs,
    causal_model: CausalModel,
    inputs: Sequence[Sequence[Any]],
    alignment: Mapping[str, str | Sequence[str]],
    *,
    token_of: Callable[[Any], Any],
    candidates: Sequence[int] | Sequence[Sequence[int]] | None = None,
    variables: Sequence[str | Sequence[str]] | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> InterchangeAccuracy:
    """Interchange intervention accuracy of an alignment between a causal model and a language model.

    Args:
        model: the language model.
        pairs: clean prompts are bases, corrupted prompts sources.
        causal_model: the hypothesis.
        inputs: the causal model's inputs (base, source) for each pair.
        alignment: variable -> its nodes: `a5.h5` at all positions, `a5.h5@S2` at a role or span, `a5.h5@12` at a token index.
            Variables may not share a node (at a position); compare rival alignments in separate calls.
        token_of: value of the output variable -> id of the predicted token.
        candidates: token ids among which the model predicts: one list for all pairs, or one for each; None: all tokens.
            If logits are equal, the lower id wins.
        variables: the interventions: names, or lists of names to be set together; None: each aligned variable alone.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (pairs done, in total).

    Raises:
        InputError: unknown variables or nodes, nodes aligned twice, or inputs, tokens or candidates that do not fit.
        PairsError: a pair lacks a position.
    """
    # The metric is not computed; this one has no requirements on the pairs.
    question = Question.ask(model, pairs, "log_probability", batch_size=batch_size)
    parts = align(model, pairs, causal_model, alignment)
    rows = [[v] if isinstance(v, str) else list(v) for v in (alignment if variables is None else variables)]
    _check_rows(rows, alignment)
    expected = _expected_tokens(causal_model, inputs, rows, token_of, len(pairs), model.bridge.cfg.d_vocab)
    allowed = _candidate_lists(candidates, expected, model.bridge.cfg.d_vocab)
    nodes = [[part for variable in row for part in parts[variable]] for row in rows]
    predicted = torch.empty_like(expected)
    with inference_state(model.bridge):
        for batch in question.batches(progress=progress, forced=False):
            index = batch.index
            logits = _intervene(question, batch, nodes)
            predicted[:, index] = _predict(logits, [allowed[i] for i in index.tolist()] if allowed else None)
    options = {
        "alignment": {variable: [str(part) for part in parts[variable]] for variable in alignment},
        "variables": rows,
        "candidates": "all" if candidates is None else [list(entry) for entry in allowed or []],
    }
    origin = {**provenance(question, "interchange_interventions", options), "metric": "interchange_accuracy"}
    names = tuple("+".join(row) for row in rows)
    return InterchangeAccuracy(names, predicted[2:], expected[2:], predicted[:2], expected[:2], frozen(origin))


def _check_rows(rows: Sequence[Sequence[str]], alignment: Mapping[str, Any]) -> None:
    if not rows or not all(rows):
        raise InputError("variables is empty; name aligned variables, or leave `variables` out")
    for variable in (v for row in rows for v in row):
        if variable not in alignment:
            raise InputError(f"variables: {variable!r} is not aligned (aligned: {', '.join(alignment)})")


def _expected_tokens(
    causal_model: CausalModel,
    inputs: Sequence[Sequence[Any]],
    rows: Sequence[Sequence[str]],
    token_of: Callable[[Any], Any],
    n_pairs: int,
    d_vocab: int,
) -> Int[Tensor, "run prompt"]:
    """The causal model's token on base, on source, and under each intervention."""
    if len(inputs) != n_pairs:
        raise InputError(f"inputs describes {len(inputs)} pairs, and there are {n_pairs}; give (base, source) for each")
    tokens = torch.empty(2 + len(rows), n_pairs, dtype=torch.long)
    for i, entry in enumerate(inputs):
        if isinstance(entry, str) or len(entry) != 2:
            raise InputError(f"inputs[{i}] is {entry!r}; expected the causal model's inputs (base, source) of pair {i}")
        base, source = entry
        alone, values = causal_model.run(base), causal_model.run(source)
        runs = [alone, values, *(causal_model.run(base, {v: values[v] for v in row}) for row in rows)]
        for run, outcome in enumerate(runs):
            tokens[run, i] = _token_id(token_of, outcome[causal_model.output], i, d_vocab)
    return tokens


def _token_id(token_of: Callable[[Any], Any], value: Any, pair: int, d_vocab: int) -> int:
    token = token_of(value)
    try:
        number = as_integer(token)
    except TypeError:
        number = -1
    if not 0 <= number < d_vocab:
        raise InputError(
            f"pair {pair}: token_of({value!r}) gave {token!r}; expected a token id from 0 to {d_vocab - 1}"
        )
    return number


def _candidate_lists(
    candidates: Sequence[int] | Sequence[Sequence[int]] | None, expected: Int[Tensor, "run prompt"], d_vocab: int
) -> list[list[int]] | None:
    """Candidates of each pair. They must include every expected token, since a missing one could never be predicted."""
    if candidates is None:
        return None
    n_pairs = expected.shape[1]
    lists = [[entry] if isinstance(entry, int) else list(entry) for entry in candidates]
    if all(isinstance(entry, int) for entry in candidates):
        lists = [[token for ids in lists for token in ids]] * n_pairs
    if len(lists) != n_pairs:
        raise InputError(
            f"candidates has {len(lists)} lists, and there are {n_pairs} pairs; give one list, or one a pair"
        )
    for i, (ids, wanted) in enumerate(zip(lists, expected.T.tolist(), strict=True)):
        missing = [token for token in wanted if token not in ids]
        outside = [token for token in ids if not 0 <= token < d_vocab]
        if outside:
            raise InputError(f"pair {i}: candidate {outside[0]} is not a token id of this model (0 to {d_vocab - 1})")
        if missing:
            raise InputError(
                f"pair {i}: the causal model expects token {missing[0]}, which is not among the candidates {ids}"
            )
    return lists


def _intervene(
    question: Question, batch: Batch, nodes: Sequence[Sequence[NodeAt]]
) -> Float[Tensor, "run pair d_vocab"]:
    """Logits of the base run, of the source run, and of the base run with each set of nodes taken from the source."""
    architecture = question.model.architecture
    sites = [part.site for parts in nodes for part in parts]
    source, values = record_values(architecture, batch.suffix.corrupted_tokens, sites)
    values = {key: batch.suffix.on_clean(value) for key, value in values.items()}
    base = base_run(architecture, batch.suffix.clean_tokens, [], question.model.report.resume_exact)
    logits = [base.logits, source]
    for parts in nodes:
        patches = [
            Patch(part.site, None if part.position is None else tokens_at(part.position, batch, question.pairs))
            for part in parts
        ]
        logits.append(patched_logits(architecture, base, values, [patches])[0])
    return torch.stack(logits)


def _predict(
    logits: Float[Tensor, "run pair d_vocab"], candidates: Sequence[Sequence[int]] | None
) -> Int[Tensor, "run batch"]:
    """The candidate with the largest logit; the lower id if equal, -1 if logits are not numbers."""
    if candidates is not None:
        allowed = torch.zeros(logits.shape[1:], dtype=torch.bool, device=logits.device)
        for row, ids in enumerate(candidates):
            allowed[row, list(ids)] = True
        logits = logits.masked_fill(~allowed, -torch.inf)
    # argmax may return any of several equal values; the first True is deterministic.
    largest = logits == logits.amax(-1, keepdim=True)
    return torch.where(largest.any(-1), largest.int().argmax(-1), -1).cpu()
