"""Checks of the values that a metric's function returns.

A user's function must return one number per prompt. Anything else would end in an error inside some library or, worse,
in scores that look valid: a detached value has no gradient, NaN makes sums NaN, a list has no sign.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from circuits.errors import InputError, lacks_memory
from circuits.plain_torch import users_device

EXPECTED = "it must give one number per prompt, as a floating-point tensor computed from the logits with torch"


def check_function(name: str, function: Any) -> None:
    """Checks that the function can be called with logits and targets.

    Raises:
        InputError: it cannot; the message names the metric.
    """
    if not callable(function):
        raise InputError(
            f"metric {name}: its function is a {type(function).__name__}; expected a function of (logits, targets)"
        )
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise InputError(
            f"metric {name} cannot be called with two arguments: {name}{_signature(function)}; it gets (logits, targets): the "
            "logits at the answer position, [prompt, token], and a circuits.question.metrics.Targets"
        ) from None
    except ValueError:  # a builtin without a signature
        return


def _signature(function: Callable[..., Any]) -> str:
    return str(inspect.signature(function))


def values_of_own(name: str, function: Callable[..., Any], logits: Tensor, targets: Any) -> Tensor:
    """The checked values of a user's function.

    Args:
        name: the metric's name.
        function: a function of logits and targets.
        logits: in float32 or wider.
        targets: with the indices of the pairs (`index`), if they are known.

    Raises:
        InputError: the function raises an error, changes the logits, or does not return one finite number per prompt,
            with a gradient if the logits have one. The gradient is checked for NaN in the backward pass.
    """
    given = logits
    if logits.requires_grad:
        given = logits.view_as(logits)
        given.register_hook(lambda gradient: _check_gradient(name, gradient, targets))
    version = given._version
    try:
        with users_device(logits.device):
            values = function(given, targets)
    except InputError:
        raise
    except Exception as problem:
        if lacks_memory(problem):
            raise
        lines = str(problem).strip().splitlines() or ["no message"]
        raise InputError(f"metric {name} failed: {type(problem).__name__}: {lines[0]}; {EXPECTED}") from problem
    if given._version != version:
        raise InputError(
            f"metric {name} changed the logits in place, but they are used elsewhere; use logits.clone() in the function"
        )
    return _checked(name, values, given, targets)


def _checked(name: str, values: Any, logits: Tensor, targets: Any) -> Tensor:
    if not isinstance(values, Tensor):
        raise InputError(f"metric {name} gave a {type(values).__module__}.{type(values).__name__}; {EXPECTED}")
    if values.layout is not torch.strided or values.is_nested or values.is_meta:
        kind = "meta" if values.is_meta else "nested" if values.is_nested else "sparse"
        raise InputError(f"metric {name} gave a {kind} tensor; {EXPECTED}")
    _check_shape(name, values, logits, targets)
    if not values.is_floating_point():
        raise InputError(f"metric {name} gave {values.dtype} numbers; {EXPECTED} (add .to(logits.dtype))")
    values = values.to(logits.device, torch.promote_types(values.dtype, torch.float32))
    if not logits.requires_grad:
        values = values.detach()
    elif not values.requires_grad:
        raise InputError(
            f"metric {name} gave values without a gradient (a detach(), item(), numpy() or a comparison is in the way), and this "
            f"method needs one; {EXPECTED}, or use a method without gradients, such as activation_patching or coar"
        )
    elif logits.numel() and not _depends(values, logits):
        raise InputError(
            f"metric {name} gave values that do not depend on the logits, according to their gradient (for example, created "
            f"with torch.tensor(…)), and this method needs a gradient; {EXPECTED}, or use a method without gradients, such as "
            "activation_patching or coar"
        )
    _check_numbers(name, values, targets)
    _check_finite(name, values, targets)
    return values


def _depends(values: Tensor, logits: Tensor) -> bool:
    """Whether autograd connects the values with these logits."""
    wanted, seen, todo = logits.grad_fn, set(), [values.grad_fn]
    while todo:
        step = todo.pop()
        if step is wanted:
            return True
        if step is not None and step not in seen:
            seen.add(step)
            todo += [before for before, _ in step.next_functions]
    return False


def check_columns(name: str, function: Callable[..., Any], targets: Any, tokens: Tensor, d_vocab: int) -> None:
    """Checks that a user's function gives the same from the logits of `tokens` as from those of the whole vocabulary.

    A function that reads a logit by its id in the vocabulary finds another one among fewer columns, and nothing else would show it.
    A function that fails on these arbitrary logits, or is random, is not checked.

    Args:
        name, function: the metric.
        targets: of some pairs.
        tokens: the tokens that the metric reads of these pairs, in increasing order.
        d_vocab: size of the vocabulary.

    Raises:
        InputError: it gives other numbers.
    """
    random = torch.Generator().manual_seed(0)
    logits, clean = (torch.randn(len(targets.answers), d_vocab, generator=random).to(tokens.device) for _ in range(2))
    whole = replace(targets, clean_logits=clean)
    with torch.no_grad(), users_device(tokens.device):
        try:
            wanted, again = function(logits.clone(), whole), function(logits.clone(), whole)
            if not isinstance(wanted, Tensor) or not torch.equal(wanted.nan_to_num(), again.nan_to_num()):
                return
        except Exception:  # real logits decide
            return
        try:
            got = function(logits[:, tokens], whole.among(tokens))
            same = got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-3, atol=1e-5, equal_nan=True)
        except Exception:
            same = False
    if not same:
        raise InputError(
            f"metric {name} has answers_only=True, but does not give the same from the logits of answers and distractors alone as from "
            "those of the whole vocabulary: read logits by the indices in targets.answers and targets.distractors, not by ids of "
            "the vocabulary, and no other logits; or leave answers_only out"
        )


def check_known(name: str, values: Tensor, targets: Any) -> None:
    """Raises InputError with the pair if a metric of this package is NaN: then the logits are not finite."""
    _check_numbers(name, values, targets, " (the model's logits are not finite there: use float32 or wider)")


def _check_shape(name: str, values: Tensor, logits: Tensor, targets: Any) -> None:
    expected = len(logits) if getattr(targets, "forced", None) is None else len(targets.answers)
    if values.shape != (expected,):
        raise InputError(
            f"metric {name} gave shape {tuple(values.shape)} for {expected} prompts; it must give one number per "
            "prompt (no mean over the batch)"
        )


def _check_finite(name: str, values: Tensor, targets: Any) -> None:
    _now_or_later(values, partial(_check_finite_now, name, values.detach(), targets))


def _check_finite_now(name: str, values: Tensor, targets: Any) -> None:
    if bool((wrong := values.detach().isinf()).any()):
        raise InputError(
            f"metric {name} is infinite for {_pair(wrong, targets)} (as the log of 0 is), so that differences of it are not numbers; it "
            "must be a finite number for every prompt"
        )


Check = Callable[[], None]
_LATER: ContextVar[list[tuple[Tensor, Check]] | None] = ContextVar("_LATER", default=None)


@contextmanager
def checked_together() -> Iterator[None]:
    """Within, the numbers of metrics are checked at the end, all at once: reading each would make the host wait for an accelerator."""
    if _LATER.get() is not None:
        yield
        return
    checks: list[tuple[Tensor, Check]] = []
    before = _LATER.set(checks)
    try:
        yield
    finally:
        _LATER.reset(before)
    totals = [total.to(checks[0][0].device) for total, _ in checks]
    if totals and not bool(torch.stack(totals).isfinite().all()):
        for _, check in checks:
            check()


def _now_or_later(values: Tensor, check: Check) -> None:
    later = _LATER.get()
    if later is None:
        check()
    else:
        later.append((values.detach().sum(), check))


def _check_numbers(name: str, values: Tensor, targets: Any, why: str = "") -> None:
    _now_or_later(values, partial(_check_numbers_now, name, values.detach(), targets, why))


def _check_numbers_now(name: str, values: Tensor, targets: Any, why: str) -> None:
    if bool(values.detach().sum().isnan()) and (wrong := values.detach().isnan()).any():
        raise InputError(f"metric {name} is NaN for {_pair(wrong, targets)}{why}; it must be a number for every prompt")


def _check_gradient(name: str, gradient: Tensor, targets: Any) -> None:
    if bool(gradient.sum().isnan()) and (wrong := gradient.isnan().any(-1)).any():
        raise InputError(
            f"the gradient of metric {name} is NaN for {_pair(wrong, targets)} (as that of sqrt or log at 0 times 0 is); it must be "
            "a number for every prompt"
        )


def _pair(wrong: Tensor, targets: Any) -> str:
    """Names the first wrong pair, by its index if it is known."""
    row = int(wrong.nonzero()[0, 0])
    index = getattr(targets, "index", None)
    if index is None or len(index) != len(wrong):
        return f"prompt {row} of a batch"
    return f"pair {int(index[row])}"
