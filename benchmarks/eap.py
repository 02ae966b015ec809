"""EAP's cost: its time against two forwards and one backward of the same Hugging Face model, and its peak memory.

    python benchmarks/eap.py

SmolLM2-135M, 16 pairs of 16 tokens without a common prefix; medians of alternating runs in one process.
"""

import resource
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

import circuits
from circuits import zoo

THREADS, RUNS, PAIRS, LENGTH = 2, 5, 16, 16


def main() -> None:
    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(3, 49_152, (PAIRS, LENGTH), generator=generator) for _ in range(2))
    pairs = circuits.PromptPairs.from_tokens(clean.tolist(), corrupted.tolist(), [5] * PAIRS, [9] * PAIRS)
    model = circuits.load_model("smollm2-135m")
    plain = AutoModelForCausalLM.from_pretrained(
        zoo.fetch("smollm2-135m"), attn_implementation="eager", dtype=torch.float32
    )
    plain = plain.eval().requires_grad_(False)

    def baseline() -> None:
        with torch.no_grad():
            plain(corrupted)
        embedding = plain.model.embed_tokens(clean).requires_grad_()
        logits = plain(inputs_embeds=embedding).logits[:, -1]
        torch.autograd.grad((logits[:, 5] - logits[:, 9]).sum(), embedding)

    def eap() -> None:
        circuits.edge_attribution(model, pairs, gradient="clean", batch_size=PAIRS)

    seconds: dict[str, list[float]] = {"two forwards, one backward": [], "EAP": []}
    for run in range(RUNS + 1):
        for (name, times), work in zip(seconds.items(), (baseline, eap), strict=True):
            start = time.perf_counter()
            work()
            if run:
                times.append(time.perf_counter() - start)
            elif name == "EAP":
                print(
                    f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
                )
    medians = [statistics.median(times) for times in seconds.values()]
    for name, median in zip(seconds, medians, strict=True):
        print(f"{name}: {median:.2f} s")
    print(f"ratio: {medians[1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
