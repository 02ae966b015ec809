"""The clean run of a batch with its gradients, under the rules of hooks."""

from circuits.engine.capture import capture_gradients
from circuits.engine.hooks import TokenBatch
from circuits.question.metrics import get_metric, targets_of


def gradients_of(model, batch, hooks=()):
    """Logits, writes and gradients of the logit difference."""
    return capture_gradients(
        model.architecture,
        TokenBatch(batch.clean, batch.position),
        lambda logits: get_metric("logit_difference")(logits, targets_of(batch)),
        hooks=hooks,
    )
