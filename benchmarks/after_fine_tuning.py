"""Is a circuit of SmolLM2-135M still there after some minutes of fine-tuning on its task, or on another one?

    python benchmarks/after_fine_tuning.py [--task ioi] [--other capital] [--steps 60] [--n 24] [--out DIR]

The model is trained on the answers of one task (cross entropy of the right answer at the answer position, AdamW). Then
`circuits.transfer` tests a circuit of this task, and one of another task, in the trained model: faithfulness, edges that changed, heads
that are matched by function. A control compares the model with itself on other prompts: no edge has changed there, and each head
should be matched to itself. With `--out`, the trained model is saved, for `circuits transfer RUN --model DIR`.
"""

import argparse
import time
from pathlib import Path

import torch
import transformers

import circuits
from circuits import Circuit, EdgeScores, Model, PromptPairs, zoo

NAME = "smollm2-135m"


def trained(start: Model, task: str, steps: int, batch: int, rate: float) -> transformers.PreTrainedModel:
    """The model after some steps on new prompts of a task."""
    tuned = transformers.AutoModelForCausalLM.from_pretrained(zoo.path(NAME), dtype=torch.float32).train()
    prompts = circuits.load_task(task).pairs(start, n=steps * batch, seed=1000)
    optimiser = torch.optim.AdamW(tuned.parameters(), lr=rate)
    for step in range(steps):
        chosen = range(step * batch, (step + 1) * batch)
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompts.clean[i]) for i in chosen], batch_first=True)
        answers = torch.tensor([prompts.answers[i][0] for i in chosen])
        logits = tuned(tokens).logits[range(batch), [prompts.positions[i] for i in chosen]]
        loss = torch.nn.functional.cross_entropy(logits, answers)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step + 1}: loss {float(loss.detach()):.3f}", flush=True)
    return tuned.eval()


def scored(model: Model, pairs: PromptPairs) -> EdgeScores:
    return circuits.edge_attribution(model, pairs, gradient="ig", steps=3)


def row(name: str, circuit: Circuit, a: Model, b: Model, pairs: tuple[PromptPairs, PromptPairs], scores: tuple[EdgeScores, EdgeScores]) -> str:  # fmt: skip
    """One line of the table."""
    result = circuits.transfer(
        circuit, b, pairs[1], model_a=a, pairs_a=pairs[0], scores_a=scores[0], scores_b=scores[1], n_random=5
    )
    accuracy = circuits.check_pairs(b, pairs[1]).accuracy
    assert accuracy is not None
    assert result.faithfulness is not None
    assert result.before is not None
    matched, changed = result.matched or (), result.changed or ()
    clear = [head for head in matched if head.clear]
    own = sum(head.head == head.match for head in clear)
    every = sum(head.head == head.match for head in matched)
    faith, before = result.faithfulness, result.before
    return (
        f"| {name} | {accuracy.clean.value:.2f} | {float(before.clean.mean()):.2f}, {float(faith.clean.mean()):.2f} | {len(circuit)} | {before.value:.2f}, {faith.value:.2f} | "
        f"{faith.random_value:.2f} | {len(changed)} | {sum(edge.in_circuit for edge in changed)} | {len(circuit & scores[1].top(200))} | "
        f"{every} of {len(matched)}; {own} of {len(clear)} |"
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--other", default="capital")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-5)
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    model = circuits.load_model(NAME)
    start = time.perf_counter()
    tuned = trained(model, asked.task, asked.steps, asked.batch, asked.rate)
    print(
        f"{asked.steps} steps of {asked.batch} prompts of {asked.task}: {time.perf_counter() - start:.0f} s", flush=True
    )
    if asked.out is not None:
        tuned.save_pretrained(asked.out)
        transformers.AutoTokenizer.from_pretrained(zoo.path(NAME)).save_pretrained(asked.out)
    after = circuits.load_model(tuned, tokenizer=model.tokenizer)
    print(
        "| circuit, and where it is tested | accuracy there | logit difference | edges | faithfulness | random circuits | edges changed | of these in the circuit | edges found again among the 200 strongest | heads matched to themselves; of the clear ones |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for task in (asked.task, asked.other):
        pairs = circuits.load_task(task).pairs(model, n=asked.n, seed=0)
        own, then = scored(model, pairs), scored(after, pairs)
        print(row(f"{task}, after training on {asked.task}", own.top(200), model, after, (pairs, pairs), (own, then)), flush=True)  # fmt: skip
        if task == asked.task:
            others = circuits.load_task(task).pairs(model, n=asked.n, seed=1)
            again = scored(model, others)
            print(row(f"{task}, the same model on other prompts", own.top(200), model, model, (pairs, others), (own, again)), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
