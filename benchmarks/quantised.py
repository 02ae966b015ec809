"""Is a circuit of SmolLM2-135M still there after quantisation? Writes a quantised model, and compares it with its dequantised form.

    python benchmarks/quantised.py torchao-int8 --out DIR       # or bitsandbytes-4, quanto-int8, quanto-int4
    circuits discover ioi --n 32 --edges 200 --out runs/ioi
    circuits transfer runs/ioi --model DIR

It needs the library that quantises (torchao, bitsandbytes or optimum-quanto), which mech-circuits does not install. The library's own model
and `circuits.load_model` of it are run on the same prompts; the largest difference of their logits is printed. transformers cannot
save models of optimum-quanto so that they are loaded again as such; these are tested in memory.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers

import circuits
from circuits import zoo

NAME = "smollm2-135m"


def settings(kind: str) -> Any:
    """How transformers quantises."""
    if kind == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig  # type: ignore[import-not-found]

        return transformers.TorchAoConfig(Int8WeightOnlyConfig())
    if kind.startswith("bitsandbytes"):
        return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return transformers.QuantoConfig(weights=kind.removeprefix("quanto-"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["torchao-int8", "bitsandbytes-4", "quanto-int8", "quanto-int4"])
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        zoo.path(NAME), dtype=torch.float32, quantization_config=settings(asked.kind)
    ).eval()
    first = circuits.load_model(NAME)
    if asked.out is not None:  # before a pass, in which bitsandbytes packs weights
        theirs.save_pretrained(asked.out)
        first.tokenizer.save_pretrained(asked.out)
    ours = circuits.load_model(theirs, tokenizer=first.tokenizer)
    pairs = circuits.load_task("ioi").pairs(first, n=asked.n)
    largest = moved = 0.0
    for prompt in pairs.clean:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            wanted, before, found = (
                model(ids)[0, -1] for model in (lambda x: theirs(x).logits, first.bridge, ours.bridge)
            )
        largest = max(largest, float((found - wanted).abs().max()))
        moved = max(moved, float((found - before).abs().max()))
    print(
        f"{ours.dequantised}\nlargest difference of a logit: {largest:.3f} from the library's model, {moved:.3f} from {NAME}"
    )


if __name__ == "__main__":
    main()
