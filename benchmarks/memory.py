"""Edge attribution's peak memory for growing models: predicted from the shape alone, and measured where this machine can.

    python benchmarks/memory.py [--measured-up-to 1.6]

Models of Llama's kind, GB of 10⁹ bytes. Measured ones have random weights and run in a process each, whose resident memory
is counted from where it stood after a much smaller model had been attributed, so that all code is loaded. Predicted ones are
never built (`circuits.memory_need`). EAP at the clean run, 8 pairs of random tokens without a common prefix, the default
batch size.
"""

import argparse
import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import THREADS, in_new_process, random_pairs
from transformers import AutoModelForCausalLM, LlamaConfig

import circuits

PAIRS, GB = 8, 1e9
COLUMNS = (
    "model", "parameters", "tokens", "dtype", "weights", "passes", "contraction", "scores", "peak, predicted",
    "peak, measured",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Of one model and its prompts."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    d_model: int
    d_mlp: int
    d_vocab: int
    tokens: int = 20
    dtype: str = "float32"

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.kv_heads,
            hidden_size=self.d_model, intermediate_size=self.d_mlp, vocab_size=self.d_vocab, max_position_embeddings=8192,
        )  # fmt: skip

    def need(self) -> circuits.MemoryNeed:
        return circuits.memory_need(self.config(), tokens=self.tokens, n=PAIRS, dtype=getattr(torch, self.dtype))


SHAPES = (
    Shape("4 layers", 4, 4, 4, 256, 1024, 32_000),
    Shape("8 layers", 8, 8, 4, 512, 2048, 32_000),
    Shape("GPT-2 small's size", 12, 12, 12, 768, 3072, 50_257),
    Shape("SmolLM2-135M's size", 30, 9, 3, 576, 1536, 49_152),
    Shape("the same", 30, 9, 3, 576, 1536, 49_152, tokens=256),
    Shape("the same", 30, 9, 3, 576, 1536, 49_152, dtype="bfloat16"),
    Shape("24 layers", 24, 16, 16, 1024, 4096, 32_000),
    Shape("the same", 24, 16, 16, 1024, 4096, 32_000, dtype="bfloat16"),
    Shape("Llama-3.2-1B", 16, 32, 8, 2048, 8192, 128_256),
    Shape("Llama-3.1-8B", 32, 32, 8, 4096, 14_336, 128_256),
    Shape("Llama-3.1-8B", 32, 32, 8, 4096, 14_336, 128_256, dtype="bfloat16"),
    Shape("Llama-3.1-8B", 32, 32, 8, 4096, 14_336, 128_256, tokens=512, dtype="bfloat16"),
    Shape("Llama-3.1-70B", 80, 64, 8, 8192, 28_672, 128_256, dtype="bfloat16"),
    Shape("Llama-3.1-70B", 80, 64, 8, 8192, 28_672, 128_256, tokens=512, dtype="bfloat16"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured-up-to", type=float, default=0.5, help="thousand million parameters")
    largest = parser.parse_args().measured_up_to * GB
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    ratios, differences = [], []
    for i, shape in enumerate(SHAPES):
        need = shape.need()
        parts = (need.weights, need.passes, need.contraction, need.scores, need.peak)
        cells = [shape.name, f"{need.n_parameters / 1e6:,.0f} M", str(shape.tokens), shape.dtype]
        cells += [f"{part / GB:.2f}" for part in parts]
        if need.n_parameters <= largest:
            measured = in_new_process(measure, str(i))
            cells.append(f"{measured / GB:.2f}")
            ratios.append(measured / need.peak)
            differences.append((measured - need.peak) / GB)
        else:
            cells.append("–")
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"measured / predicted: {min(ratios):.2f} to {max(ratios):.2f}")
    print(f"measured - predicted: {min(differences):.2f} to {max(differences):.2f} GB")


def resident(field: str = "VmRSS") -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(which: str) -> float:
    """Peak resident memory in bytes, from before the model was made (but with all code loaded)."""
    torch.set_num_threads(THREADS)
    shape = SHAPES[int(which)]
    attribute(Shape("smallest", 2, 2, 2, 32, 64, 100, dtype=shape.dtype))
    before = resident()
    attribute(shape)
    return resident("VmHWM") - before


def attribute(shape: Shape) -> None:
    """Makes the model; what that took at its peak is forgotten."""
    torch.manual_seed(0)
    model = circuits.load_model(AutoModelForCausalLM.from_config(shape.config(), dtype=getattr(torch, shape.dtype)))
    pairs = random_pairs(model, PAIRS, shape.tokens)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    circuits.edge_attribution(model, pairs, gradient="clean", check_sign=False)


if __name__ == "__main__":
    main()
