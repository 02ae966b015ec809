"""What an ablation is: a rule for the value that replaces each writer's output."""

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.capture import Writes, only_writes
from circuits.engine.hooks import Hook, TokenBatch
from circuits.engine.patch import Patch, Values, record_values
from circuits.engine.prefix import Suffix
from circuits.errors import InputError
from circuits.graph.nodes import Site
from circuits.prompts.pairs import PromptPairs

if TYPE_CHECKING:
    from circuits.model import Model

ABLATIONS: dict[str, type["Ablation"]] = {}
"""The built-in ablations by name; `circuits.question.ablations` adds them."""


class _ByName(ABCMeta):
    """`Ablation("mean", …)` makes the built-in ablation of that name; subclasses are called as usual."""

    if not TYPE_CHECKING:  # which would lose the types of the subclasses' arguments

        def __call__(cls, *given: Any, **options: Any) -> Any:
            return built_in(*given, **options) if cls is Ablation else super().__call__(*given, **options)


class Ablation(metaclass=_ByName):
    """One way to ablate: a built-in one by its name, with its options; or your own, as a subclass.

    | built in | options |
    |---|---|
    | `interchange`, `zero` | |
    | `mean`, `mean_positional` | `reference`: the pairs whose clean prompts make the mean; by default those of the question |
    | `optimal` | `reference`, as for `mean`. `steps`: of training, default 100. `seed`: default 0 |
    | `gaussian` | `tokens`: names of roles; by default the tokens in which the prompts differ. `scale`: default 3. `seed`: default 0 |
    | `resample` | `seed`: default 0 |

    >>> Ablation("gaussian", scale=2.0)
    Gaussian(tokens=(), scale=2.0, seed=0)

    Raises:
        InputError: there is no ablation of that name, or it does not take the option.

    Attributes:
        name: the name in files and on the command line.
        help: the replacement value in a few words, for `--help`.
        keeps_prefix: whether replacements equal the clean values before the first token in which a pair differs, so
            that those positions need not be computed again.
    """

    name: ClassVar[str]
    help: ClassVar[str] = ""
    keeps_prefix: ClassVar[bool] = False

    if TYPE_CHECKING:

        def __init__(self, name: str = ..., **options: Any) -> None: ...

    @property
    def needs_difference(self) -> bool:
        """Whether the ablation needs corrupted prompts, and changes nothing if the two prompts of a pair are equal."""
        return self.keeps_prefix

    @property
    def label(self) -> str:
        """Name and options, for provenance."""
        return self.name

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What identifies the ablation besides its label."""
        return {}

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        """The ablation with its estimates over these pairs, such as means; called once per question."""
        return self

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        """The replacement values of all writers; every subclass has its own.

        Args:
            model: the model.
            suffix: the prompts.
            clean: every writer's output on the clean prompts.
        """
        raise NotImplementedError(f"{type(self).__name__} is an ablation without a method 'replacement'")


class RunAblation(Ablation):
    """An ablation that takes all values from one other run of the model.

    Attributes:
        of_corrupted: whether that run is of the corrupted prompts, so that values come from the tokens aligned with the clean
            ones (`circuits.prompts.aligned`).
    """

    of_corrupted: ClassVar[bool] = False

    @abstractmethod
    def run(self, model: "Model", suffix: Suffix) -> tuple[TokenBatch, list[Hook]]:
        """The prompts of that run, and its hooks."""

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        writes = only_writes(model.architecture, *self.run(model, suffix))
        return writes.map(suffix.on_clean) if self.of_corrupted else writes

    def values(
        self, model: "Model", suffix: Suffix, sites: Sequence[Site], tokens: Int[Tensor, " d_out"] | None = None
    ) -> tuple[Float[Tensor, "read d_out"], Values]:
        """The logits of that run (of these tokens; None: of all), and its activations at the sites, at the clean tokens."""
        batch, hooks = self.run(model, suffix)
        logits, values = record_values(model.architecture, batch, sites, hooks, tokens)
        return logits, self.on_clean(suffix, values)

    def on_clean(self, suffix: Suffix, values: Values) -> Values:
        """That run's activations, at the clean tokens."""
        return {key: suffix.on_clean(value) for key, value in values.items()} if self.of_corrupted else values

    def on_own(self, suffix: Suffix, values: Values) -> Values:
        """The clean run's activations, at the tokens of that run."""
        return {key: suffix.on_corrupted(value) for key, value in values.items()} if self.of_corrupted else values

    def own_patches(self, suffix: Suffix, patches: Sequence[Patch]) -> list[Patch]:
        """Patches of the clean run, at the tokens of that run."""
        if not self.of_corrupted:
            return list(patches)
        return [
            patch if patch.tokens is None else replace(patch, tokens=suffix.on_corrupted(patch.tokens))
            for patch in patches
        ]


def built_in(name: Any = "", **options: Any) -> Ablation:
    """See `Ablation`."""
    if not isinstance(name, str) or name not in ABLATIONS:
        near = get_close_matches(str(name), ABLATIONS, n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"there is no ablation {name!r}{hint} (one of {', '.join(ABLATIONS)})")
    kind = ABLATIONS[name]
    known = [option.name for option in fields(kind) if option.repr] if is_dataclass(kind) else []
    for option in options:
        if option not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no options"
            raise InputError(f"ablation {name} does not take {option!r}; it {takes}")
    reference = options.get("reference")
    if not isinstance(reference, PromptPairs | None):
        raise InputError(
            f"ablation {name}: reference must be PromptPairs, not {type(reference).__name__}; "
            "PromptPairs.from_file(path, model) reads them"
        )
    return kind(**options)
