"""The logits with chosen parts of a model kept, and all others of the same groups ablated, at all positions.

The groups are those of nodes: `features` (features, errors and skips of inserted dictionaries), `heads`, `mlps`, `input`. A part that is
kept has its value in the same run, where other parts are missing; a part that is ablated has its replacement. An MLP whose write has a
dictionary is not a part itself: its features and its error are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.hooks import run
from circuits.engine.inserted import edits
from circuits.engine.insertion import Key
from circuits.engine.patch import Values, record_values
from circuits.errors import InputError
from circuits.graph.groups import groups_in
from circuits.graph.nodes import Site, find_site
from circuits.measure.component_runs import Replacements
from circuits.model import Model
from circuits.question.question import Batch, Question

GROUPS = ("features", "heads", "mlps", "input")
ERRORS = ("chosen", "all", "none")


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of some groups.

    Attributes:
        sites: one site for each activation or part of a dictionary.
        sizes: the shape of its mask, which broadcasts to [batch, pos, …].
    """

    sites: tuple[Site, ...]
    sizes: dict[Key, tuple[int, ...]]

    @classmethod
    def from_groups(cls, model: Model, groups: str) -> "Parts":
        """The parts of groups joined by `+`.

        Raises:
            InputError: another group, no dictionary, or a dictionary that shares its place with another group.
        """
        chosen = groups_in(groups)
        if unknown := [group for group in chosen if group not in GROUPS]:
            raise InputError(f"among must be groups of {', '.join(GROUPS)} joined by +, got {unknown[0]!r}")
        if "features" in chosen and not model.places:
            raise InputError(f"among {groups!r} needs a dictionary; give dictionaries=[…]")
        sizes: dict[Key, tuple[int, ...]] = {}
        places = {place.name for place in model.places} if "features" in chosen else set()
        for place in model.places if "features" in chosen else ():
            kinds = {"f": (place.n_features,), "e": (1,), **({"s": (1,)} if place.skip else {})}
            sizes |= {(place.layer, f"{kind}:{place.name}"): size for kind, size in kinds.items()}
        for layer, has_mlp in enumerate(model.graph.mlps):
            if "heads" in chosen:
                if shared := places & {f"a{layer}", f"z{layer}"}:
                    raise InputError(
                        f"heads and the features of {min(shared)} are two descriptions of the same; choose one of the two groups"
                    )
                sizes[layer, "z"] = (model.graph.n_heads, 1)
            if "mlps" in chosen and has_mlp and f"m{layer}" not in places:
                sizes[layer, "mlp_out"] = (1,)
        if "input" in chosen:
            sizes[0, "resid_pre"] = (1,)
        return cls(tuple(Site(f"{key[1]}", *key, None) for key in sizes), sizes)

    def ablated(self, model: Model, kept: Sequence[str], errors: str = "chosen") -> dict[Key, Bool[Tensor, "*entry"]]:
        """What is ablated if only these parts are kept; without activations of which everything is kept.

        Args:
            model: the model with its dictionaries.
            kept: names of parts.
            errors: `chosen`: as named; `all`: every error is kept; `none`: none is.

        Raises:
            InputError: an unknown name, or a node of another group.
        """
        if errors not in ERRORS:
            raise InputError(f"errors must be one of {', '.join(ERRORS)}, got {errors!r}")
        masks = {key: torch.ones(size, dtype=torch.bool) for key, size in self.sizes.items()}
        widths = model.widths
        for name in kept:
            site = find_site(model.graph, name, widths)
            mask = masks.get((site.layer, site.point))
            if mask is None:
                raise InputError(
                    f"{name} is not one of the parts that are kept or ablated here ({', '.join(sorted({k[1] for k in masks}))})"
                )
            mask[() if site.index is None else site.index] = False
        for (_, point), mask in masks.items():
            if point.startswith("e:") and errors != "chosen":
                mask.fill_(errors == "none")
        return {key: mask for key, mask in masks.items() if bool(mask.any())}


@dataclass(frozen=True, eq=False)
class KeptRuns:
    """A batch of which parts can be kept.

    Attributes:
        question: model, pairs, metric and ablation.
        batch: some of its pairs.
        own: the parts' values in the clean run.
        values: the replacement values.
        clean: logits of the clean run.
    """

    question: Question
    batch: Batch
    own: Values
    values: Values
    clean: Float[Tensor, "read d_vocab"]

    @classmethod
    def each(cls, question: Question, parts: Parts) -> "Iterator[KeptRuns]":
        """The batches of a question, each with the values of these parts."""
        replacements = Replacements.prepare(question, parts.sites)
        for batch in question.batches():
            clean, own = record_values(question.model.architecture, batch.suffix.clean_tokens, parts.sites)
            yield cls(question, batch, own, replacements.values(question, batch, own), clean)

    def logits(self, ablated: dict[Key, Bool[Tensor, "*entry"]]) -> Float[Tensor, "read d_vocab"]:
        """Logits with these entries ablated."""
        if not ablated:
            return self.clean
        changes: dict[Key, Callable[[Tensor], Tensor]] = {}
        for key, mask in ablated.items():
            changes[key] = partial(_replaced, self.values[key], mask.to(self.values[key].device))
        with torch.no_grad():
            return run(
                self.question.model.architecture,
                self.batch.suffix.clean_tokens,
                edits(self.question.model.architecture, changes),
            )


def _replaced(value: Tensor, mask: Tensor, x: Tensor) -> Tensor:
    return torch.where(mask, value, x)
