"""Trains the induction model and writes its weights: `python -m tasks.trained.train [FILE]`.

Sequences are pieces of different random tokens, repeated; the loss is the cross entropy of every token that the piece's
repetition determines. One thread and a fixed seed, so that one machine gives one model; about a minute.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformer_lens import TransformerBridge

from circuits.files.atomic import write_tensors
from tasks.trained.induction import BOS, CONFIG, WEIGHTS, parameters, untrained

STEPS, BATCH, RATE = 1500, 64, 3e-3
SHORTEST, LONGEST = 6, 18


def sequences(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Token ids [n, n_ctx] and, for each token, whether an earlier repetition determines the next one.

    All sequences of a batch have pieces of one length, drawn anew; each begins at another place in its piece.
    """
    size, vocabulary = CONFIG["n_ctx"], CONFIG["d_vocab"]
    length = int(torch.randint(SHORTEST, LONGEST + 1, (1,), generator=generator))
    pieces = torch.rand(n, vocabulary - 1, generator=generator).argsort(1)[:, :length] + 1
    tokens = pieces.repeat(1, math.ceil(size / length))[:, :size]
    tokens[:, 0] = BOS
    known = torch.zeros(size, dtype=torch.bool)
    known[length + 1 : size - 1] = True
    return tokens, known


def train(seed: int = 0, at: Callable[[int, float, TransformerBridge], None] | None = None) -> dict[str, Tensor]:
    """The weights after training.

    Args:
        seed: of the first weights and of the sequences.
        at: called after every step with its number, its loss and the model, which it must leave as it is.
    """
    torch.set_num_threads(1)
    bridge = untrained(seed).train()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(bridge.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    start = time.perf_counter()
    for step in range(1, STEPS + 1):
        tokens, known = sequences(BATCH, generator)
        logits = bridge(tokens, return_type="logits")
        target, predicted = tokens.roll(-1, 1)[:, known], logits[:, known]
        loss = cross_entropy(predicted.flatten(0, 1), target.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(bridge.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if at is not None:
            at(step, float(loss), bridge)
        if step % 250 == 0:
            right = float((predicted.argmax(-1) == target).float().mean())
            print(
                f"step {step}: loss {loss:.4f}, accuracy {right:.3f}, {time.perf_counter() - start:.0f} s", flush=True
            )
    return {name: parameter.detach().contiguous() for name, parameter in parameters(bridge).items()}


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name(WEIGHTS)
    weights = train()
    write_tensors(weights, out)
    print(f"{sum(tensor.numel() for tensor in weights.values()):,} parameters, {out.stat().st_size:,} bytes in {out}")


if __name__ == "__main__":
    main()
