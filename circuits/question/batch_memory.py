"""How large batches are, and what is kept for backward passes: from the sizes of the model and a budget of memory.

The estimate is for the passes that need most: a forward and a backward pass with every writer's output (EAP, AtP), and a circuit's
forward pass. For a batch of B rows of T tokens (P more are shared by clean and corrupted prompts):

    written out   B · T · writers · d_model                            a circuit's differences of all writers
    stored        3 · B · T · (1 + layers) · 2 d_model                 clean, replaced, and gradients
    activations   B · T · layers · (6 d_model + 4 d_mlp)
    patterns      B · layers · heads · T · (T + P)

With blocks computed again (`engine.recompute`), activations and patterns are those of two layers, besides each block's input.
"""

from dataclasses import dataclass

from circuits.memory_budget import SHARE, free_memory
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.sequences import rows

BATCH_BYTES = {"cpu": 64 * 2**20}
ACCELERATOR_BATCH_BYTES = 256 * 2**20
LARGE_BATCH_BYTES = 192 * 2**20
"""For batches that go through the model many times, where the fixed cost of a pass matters more."""
LARGEST_BATCH = 64
SMALL = 256 * 2**20
"""A batch that needs less does not ask how much memory is free."""
NOTABLE = 10**9
"""The command says how much memory it expects to need if that is more."""
STORED = 3


@dataclass(frozen=True)
class BatchMemory:
    """Sizes in bytes for one row of a batch.

    Attributes:
        writers: all writers' outputs, written out once and stored three times.
        activations: what autograd keeps of one layer, without the patterns.
        patterns: attention patterns of one layer.
        stream: the input of one block.
        n_layers: layers.
    """

    writers: int
    activations: int
    patterns: int
    stream: int
    n_layers: int

    @classmethod
    def for_model(cls, model: Model, n_positions: int, prefix: int = 0) -> "BatchMemory":
        """For prompts of `n_positions` tokens after `prefix` shared ones."""
        cfg, graph = model.bridge.cfg, model.graph
        width, d_model = model.dtype.itemsize, int(cfg.d_model)
        wide = max(4, width)
        return cls(
            writers=n_positions
            * ((graph.n_writers + STORED * 2 * (1 + graph.n_layers)) * d_model + model.n_inserted)
            * wide,
            activations=n_positions * (6 * d_model + 4 * int(getattr(cfg, "d_mlp", None) or 4 * d_model)) * width,
            patterns=graph.n_heads * n_positions * (n_positions + prefix) * width,
            stream=n_positions * d_model * width,
            n_layers=graph.n_layers,
        )

    def need(self, rows: int, recompute: bool = False) -> int:
        """Estimated bytes of a pass over `rows` rows."""
        layers = min(2, self.n_layers) if recompute else self.n_layers
        kept = layers * (self.activations + self.patterns) + self.n_layers * self.stream
        return rows * (self.writers + kept)

    def recompute(self, rows: int, budget: int) -> bool:
        """Whether blocks must be computed again to stay within a budget."""
        return self.need(rows) > budget

    def rows(self, budget: int) -> int:
        """The most rows that fit into a budget, with blocks computed again if one row does not fit otherwise; at least 1."""
        for recompute in (False, True):
            rows = budget // self.need(1, recompute)
            if rows:
                return rows
        return 1


def longest_rows(pairs: PromptPairs, share_prefix: bool) -> tuple[int, int, int]:
    """Of the longest pair: tokens of a row after the common prefix, tokens of the prefix, and rows (with answers of several tokens)."""
    prefix = min(min(pair.prefix, pair.position) for pair in pairs) if share_prefix else 0
    longest, n_rows = max(len(tokens) for tokens in pairs.clean) - prefix, 1
    if pairs.several_tokens:
        longest += max(pair.forced for pair in pairs)
        n_rows = max(len(rows((*pair.answers, *pair.distractors))) for pair in pairs)
    return longest, prefix, n_rows


def largest_batch(model: Model, pairs: PromptPairs, share_prefix: bool = True, large: bool = False) -> int:
    """Pairs per batch by default (`default_batch_size`), within the model's budget; at least 1."""
    longest, prefix, n_rows = longest_rows(pairs, share_prefix)
    width = 4 if model.dtype.itemsize < 4 else model.dtype.itemsize
    place = (model.graph.n_writers * int(model.bridge.cfg.d_model) + model.n_inserted) * width
    size = default_batch_size(place, longest * n_rows, model.device.type, large)
    one = BatchMemory.for_model(model, longest, prefix)
    if one.need(size * n_rows) <= SMALL:
        return size
    budget = budget_of(model)
    return size if budget is None else max(1, min(size, one.rows(budget) // n_rows))


def default_batch_size(place_bytes: int, n_positions: int, device: str, large: bool = False) -> int:
    """Pairs per batch, if all writers take `place_bytes` per position of a prompt; see `Question.ask`."""
    budget = max(BATCH_BYTES.get(device, ACCELERATOR_BATCH_BYTES), LARGE_BATCH_BYTES * large)
    return max(1, min(LARGEST_BATCH, budget // (n_positions * place_bytes)))


def recomputes(model: Model, n_rows: int, n_positions: int, prefix: int) -> bool:
    """Whether a batch's blocks are computed again for its backward pass, so that it stays within the model's budget."""
    one = BatchMemory.for_model(model, n_positions, prefix)
    if one.need(n_rows) <= SMALL and model.memory is None:
        return False
    budget = budget_of(model)
    return budget is not None and one.recompute(n_rows, budget)


def estimate(model: Model, pairs: PromptPairs, batch_size: int, share_prefix: bool = True) -> tuple[int, bool]:
    """Bytes that a forward and a backward pass over a batch are expected to need besides the weights, and whether blocks are computed
    again."""
    longest, prefix, n_rows = longest_rows(pairs, share_prefix)
    one, n_rows = BatchMemory.for_model(model, longest, prefix), min(batch_size, len(pairs)) * n_rows
    again = recomputes(model, n_rows, longest, prefix)
    return one.need(n_rows, again), again


def budget_of(model: Model) -> int | None:
    """The budget of a model: the user's, or a share of what is free now; None: unknown."""
    if model.memory is not None:
        return model.memory
    free = free_memory(model.device)
    return None if free is None else int(SHARE * free)
