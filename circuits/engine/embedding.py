"""The scale of token embeddings where they enter the residual stream.

Some models change an embedding before the first block: Gemma multiplies it by √d_model, Granite by a configured factor,
BLOOM applies a norm. The change is measured on the model itself, without a list of architectures.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.hooks import Hook, Reached, TokenBatch, run, stop

SAMPLE = 32
"""Number of tokens for measuring the factor."""
CHUNK = 4096
"""Tokens per pass, if the whole vocabulary is embedded."""


def embedding_std(architecture: Architecture) -> float:
    """The standard deviation of the entries of a token's embedding as it enters the first block, over the whole
    vocabulary; learned position embeddings are left out.

    If the model multiplies its embedding matrix `W_E` by a factor (1 in most models), this is the factor times the
    standard deviation of the matrix's entries. Otherwise every token is embedded.
    """
    matrix = architecture.bridge.W_E.detach()
    factor = _factor(architecture, matrix)
    return _std_of_all(architecture, len(matrix)) if factor is None else factor * float(matrix.float().std())


def _factor(architecture: Architecture, matrix: Float[Tensor, "d_vocab d_any"]) -> float | None:
    """The factor by which the model multiplies its embedding matrix; None if it does something else.

    It compares differences between tokens at one position, in which position embeddings cancel.
    """
    tokens = torch.linspace(0, len(matrix) - 1, min(SAMPLE, len(matrix))).long().to(matrix.device)
    rows, entering = matrix[tokens].double(), _entering(architecture, tokens).double().to(matrix.device)
    if rows.shape != entering.shape:
        return None
    eps = torch.finfo(matrix.dtype).eps
    limit = 8 * eps * float(entering.norm())
    rows, entering = rows - rows.mean(0), entering - entering.mean(0)
    size = float(rows.square().sum())
    if size == 0:
        return None
    factor = float((rows * entering).sum()) / size
    if float((entering - factor * rows).norm()) > limit:
        return None
    return 1.0 if abs(factor - 1) <= eps else abs(factor)


def _std_of_all(architecture: Architecture, d_vocab: int) -> float:
    n, total, squares = 0, 0.0, 0.0
    for start in range(0, d_vocab, CHUNK):
        entries = _entering(architecture, torch.arange(start, min(start + CHUNK, d_vocab))).double()
        n, total, squares = n + entries.numel(), total + float(entries.sum()), squares + float(entries.square().sum())
    return max(0.0, (squares - total**2 / n) / (n - 1)) ** 0.5


def _entering(architecture: Architecture, tokens: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
    """The first block's input for each token as a prompt, without learned position embeddings if they are exposed."""
    bridge = architecture.bridge
    hooks: list[Hook] = [(architecture.blocks[0].resid_pre, stop)]
    if "pos_embed.hook_out" in bridge.hook_dict:
        hooks.append((bridge.hook_dict["pos_embed.hook_out"], torch.zeros_like))
    tokens = tokens.to(bridge.W_E.device)
    try:
        with torch.no_grad():
            run(architecture, TokenBatch(tokens[:, None], torch.zeros_like(tokens)), hooks)
    except Reached as reached:
        return reached.value[:, 0]
    raise AssertionError("the pass never came to the first block")
