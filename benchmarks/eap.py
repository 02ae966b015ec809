"""EAP's cost: its time against two forwards and one backward of the same Hugging Face model, and its peak memory.

    python benchmarks/eap.py

SmolLM2-135M, 16 pairs of 16 tokens without a common prefix; medians of alternating runs in one process.
"""

import torch
from measuring import PAIRS, THREADS, medians, peak_bytes, random_pairs
from transformers import AutoModelForCausalLM

import circuits
from circuits import zoo


def main() -> None:
    torch.set_num_threads(THREADS)
    model = circuits.load_model("smollm2-135m")
    pairs = random_pairs(model)
    clean, corrupted = torch.tensor(pairs.clean), torch.tensor(pairs.corrupted)
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

    seconds = medians({"two forwards, one backward": baseline, "EAP": eap})
    peak = peak_bytes(eap)
    for name, median in seconds.items():
        print(f"{name}: {median:.2f} s")
    print(f"ratio: {seconds['EAP'] / seconds['two forwards, one backward']:.2f}")
    print(f"EAP's peak memory over the model: {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
