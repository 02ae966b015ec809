"""Clean and corrupted prompts of unequal length, against loops that take each value at its aligned token, one by one."""

import json
from functools import cache
from typing import Any

import pytest
import torch

import circuits
from circuits import Circuit, PairsError, PromptPairs, circuit_metric
from circuits.engine.hooks import TokenBatch, run
from circuits.graph.nodes import find_site, select_sites
from circuits.methods import catalogue
from circuits.prompts.pair import bounds
from circuits.question.ablations import Gaussian
from circuits.question.question import Question
from circuits.runs.discover import discover
from tests.command import run as command
from tests.naive_gpt2 import NaiveGPT2
from tests.naive_llama import NaiveLlama
from tests.tiny_models import D_VOCAB, atol, random_hf_model, random_subset, tiny

KINDS = ("gpt2", "llama", "neox", "gemma2")


@cache
def unequal() -> PromptPairs:
    """A name of one to three tokens in both prompts, after two or three shared tokens; the second pair is read before its end."""
    generator = torch.Generator().manual_seed(3)

    def tokens(n: int) -> list[int]:
        return torch.randint(20, D_VOCAB, (n,), generator=generator).tolist()

    clean, corrupted, spans, others = [], [], [], []
    for start, own, other in ((2, 1, 3), (3, 3, 1), (2, 2, 2), (2, 3, 2), (2, 1, 3)):
        begin, rest = tokens(start), tokens(3)
        clean.append([*begin, *tokens(own), *rest])
        corrupted.append([*begin, *tokens(other), *rest])
        spans.append({"name": [start, start + own], "end": len(clean[-1]) - 1})
        others.append({"name": [start, start + other], "end": len(corrupted[-1]) - 1})
    positions = [len(prompt) - 1 - (i == 1) for i, prompt in enumerate(clean)]
    roles = [{"last": place["name"][1] - 1} for place in spans]
    right, wrong = [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]
    named: dict[str, Any] = {"spans": spans, "corrupted_spans": others, "align": "spans"}
    return PromptPairs.from_tokens(clean, corrupted, right, wrong, positions, roles, **named)


def logit_difference(logits: torch.Tensor, pair: Any) -> float:
    return float(logits[pair.answers[0]] - logits[pair.distractors[0]])


def partner(pair: Any, token: int, into: str) -> int:
    """The other prompt's token, by the definition of parts that end together."""
    there = list(pair.alignment or range(len(pair)))
    if into == "clean":
        return there[token]
    same = [i for i, to in enumerate(there) if to == token]
    return same[-1] if same else next(i for i, to in enumerate(there) if to > token)


def test_these_pairs_have_all_kinds() -> None:
    pairs = unequal()
    assert pairs.alignments[2] == ()
    assert {len(b) - len(a) for a, b in zip(pairs.clean, pairs.corrupted, strict=True)} == {2, -2, 0, -1}
    sizes = [(len(batch), batch.prefix, batch.alignment is None) for batch in pairs.batches(8)]
    assert sizes == [(2, 2, False), (1, 2, True), (1, 2, False), (1, 3, False)]


@pytest.mark.parametrize("name", KINDS)
def test_all_edges_kept_is_the_clean_run_and_none_the_corrupted_one_at_its_own_position(name: str) -> None:
    model, pairs = tiny(name), unequal()
    for circuit, column in ((Circuit.full(model.graph), "clean"), (Circuit.empty(model.graph), "corrupted")):
        wanted = []
        for pair in pairs:
            place = pair.position if column == "clean" else pair.corrupted_position
            with torch.no_grad():
                logits = model.bridge(torch.tensor([getattr(pair, column)]))[0, place]
            wanted.append(logit_difference(logits, pair))
        for size in (1, 8):
            result = circuit_metric(model, pairs, circuit, batch_size=size)
            assert result.tolist() == pytest.approx(wanted, abs=atol(name))


@pytest.mark.parametrize(("name", "twin"), [("gpt2", NaiveGPT2), ("llama", NaiveLlama)])
def test_any_circuit_is_the_model_node_by_node_with_values_of_aligned_tokens(name: str, twin: Any) -> None:
    model, pairs, naive = tiny(name), unequal(), twin(random_hf_model(name))
    for share in (0.2, 0.8):
        circuit, wanted = random_subset(model, share), []
        for pair in pairs:
            with torch.no_grad():
                other = naive.run(torch.tensor(pair.corrupted))[1]
                values = {
                    writer: torch.stack([value[partner(pair, t, "clean")] for t in range(len(pair))])
                    for writer, value in other.items()
                }
                logits = naive.run(torch.tensor(pair.clean), set(circuit.edges), values)[0]
            wanted.append(logit_difference(logits[pair.position], pair))
        for size in (1, 8):
            assert circuit_metric(model, pairs, circuit, batch_size=size).tolist() == pytest.approx(
                wanted, abs=atol(name)
            )


def naive_patched(model: Any, pair: Any, into: str, name: str, at: int | None = None) -> float:
    """One forward pass per patch; every token takes the value of its partner, one by one (at: those of one clean token only)."""
    site = find_site(model.graph, name)
    point = getattr(model.architecture.blocks[site.layer], site.point)
    base, source = (pair.clean, pair.corrupted) if into == "clean" else (pair.corrupted, pair.clean)
    place = pair.position if into == "clean" else pair.corrupted_position
    stored: list[torch.Tensor] = []

    def patch(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        for token in range(len(base)):
            where = (0, token) if site.index is None else (0, token, site.index)
            other = partner(pair, token, into)
            if at is not None and at != (token if into == "clean" else other):
                continue
            x[where] = stored[0][(0, other) if site.index is None else (0, other, site.index)]
        return x

    with torch.no_grad():
        run(model.architecture, TokenBatch(torch.tensor([source]), torch.tensor([0])), [(point, stored.append)])
        logits = run(model.architecture, TokenBatch(torch.tensor([base]), torch.tensor([place])), [(point, patch)])
    return logit_difference(logits[0], pair)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_patches_take_the_value_of_the_partner_of_each_token(name: str, direction: str) -> None:
    model, pairs = tiny(name), unequal()
    into, sign = ("clean", 1) if direction == "noising" else ("corrupted", -1)
    whole = circuits.activation_patching(model, pairs, direction=direction)
    at_role = circuits.activation_patching(model, pairs, direction=direction, positions=["last"])
    names = [site.name for site in select_sites(model.graph, "heads+mlps")]
    for row in range(0, len(names), 4):
        for i, pair in enumerate(pairs):
            role, _ = bounds(pair.roles["last"])
            ends = [float(metric[i]) for metric in (whole.clean, whole.corrupted) if metric is not None]
            for scores, at in ((whole, None), (at_role, role)):
                patched = naive_patched(model, pair, into, names[row], at)
                wanted = sign * (ends[0 if into == "clean" else 1] - patched)
                assert float(scores.per_prompt[row].flatten()[i]) == pytest.approx(
                    wanted, abs=max(1e-5, atol(name)), rel=1e-4
                )


def test_mediation_and_interventions_take_the_same_values() -> None:
    model, pairs = tiny("gpt2"), unequal()
    result = circuits.causal_mediation(model, pairs, ["a1.h0"])
    for metric, into in ((result.clean_patched, "clean"), (result.corrupted_patched, "corrupted")):
        wanted = [naive_patched(model, pair, into, "a1.h0", None) for pair in pairs]
        assert metric.tolist() == pytest.approx(wanted, abs=1e-9)
    copies = circuits.CausalModel({"x": lambda prompt, _: prompt}, output="x")
    swapped = circuits.interchange_interventions(model, pairs, copies, [(3, 4)] * 5, {"x": "a1.h0"}, token_of=int)
    with torch.no_grad():
        alone = [int(model.bridge(torch.tensor([p.corrupted]))[0, p.corrupted_position].argmax()) for p in pairs]
    assert swapped.predicted_alone[1].tolist() == alone


SMALL: dict[str, dict[str, Any]] = {
    "acdc": {"threshold": 0.1}, "atp-star": {"positions": "all"}, "coar": {"samples": 40}, "edge-pruning": {"edges": 9, "steps": 2},
    "ensemble": {"gradients": ["ig", "gim"]}, "path-patching": {"receivers": ["logits"]}, "ugs": {"edges": 9, "steps": 2},
}  # fmt: skip


@pytest.mark.parametrize("method", catalogue.names())
def test_every_method_takes_them_and_gives_the_same_in_batches_of_any_size(method: str) -> None:
    results = []
    for size in (8, 8) if method in ("edge-pruning", "ugs") else (1, 8):  # training depends on its batches
        result: Any = discover(
            tiny("gpt2"),
            unequal(),
            method=method,
            ablation="zero" if method == "direct-effects" else "interchange",
            test=False,
            batch_size=size,
            **SMALL.get(method, {}),
        )
        results.append(
            result.scores.per_prompt
            if getattr(result.scores, "per_prompt", None) is not None
            else result.circuit.mask.double()
        )
    assert torch.allclose(*results, atol=1e-8)


def test_first_order_identities_hold_across_lengths() -> None:
    """A node's attribution is the sum over its edges, with the prefix skipped or not."""
    model, pairs = tiny("gpt2"), unequal()
    nodes = circuits.attribution_patching(model, pairs).to_dict()
    edges = circuits.edge_attribution(model, pairs, gradient="clean").to_dict()
    for name in ("a0.h0", "m0", "a1.h2"):
        assert nodes[name] == pytest.approx(
            sum(v for edge, v in edges.items() if edge.startswith(f"{name}->")), abs=1e-9
        )
    assert all(batch.suffix.start for batch in Question.ask(model, pairs).batches())


def test_noise_hits_the_tokens_that_have_no_equal_partner() -> None:
    model, pairs = tiny("gpt2"), unequal()
    result = circuit_metric(model, pairs, Circuit.empty(model.graph), ablation="gaussian")
    differing = [[2], [3, 4, 5], [2, 3], [2, 3, 4], [2]]
    for i, (pair, tokens) in enumerate(zip(pairs, differing, strict=True)):
        roles = [{"name": [tokens[0], tokens[-1] + 1]}] * (i + 1)  # the noise of a pair depends on its number
        rows = ([row] * (i + 1) for row in (pair.clean, pair.answers, pair.distractors))
        clean, answers, distractors = rows
        named = PromptPairs.from_tokens(clean, None, answers, distractors, [pair.position] * (i + 1), roles)
        alone = circuit_metric(model, named, Circuit.empty(model.graph), ablation=Gaussian(("name",)))
        assert float(alone[i]) == pytest.approx(float(result[i]), abs=1e-12)


@pytest.fixture
def of_two_lengths(tmp_path: Any) -> tuple[Any, list[str]]:
    """A file whose first pair has prompts of unequal length, and the command that finds a circuit of it."""
    pairs = [
        {"clean": [0, 3, 3, 6, 6, 6, 1], "corrupted": [0, 2, 6, 6, 6, 1], "answers": [5], "distractors": [4]},
        {"clean": [0, 3, 3, 7, 6, 8, 1], "corrupted": [0, 2, 2, 7, 6, 8, 1], "answers": [5], "distractors": [4]},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    asked = ["discover", str(path), "--model", "compiled/and-gate", "--edges", "6", "--random-circuits", "1"]
    return path, asked


def test_a_file_of_unequal_lengths_is_refused_without_an_alignment(
    monkeypatch: Any, capsys: Any, tmp_path: Any, of_two_lengths: Any
) -> None:
    asked = [*of_two_lengths[1], "--out", str(tmp_path / "run")]
    assert command(monkeypatch, asked) == 2
    assert "line 1: clean has 7 tokens, corrupted 6; pairs must have equal length" in capsys.readouterr().err
    assert command(monkeypatch, [*asked, "--align", "words"]) == 2
    assert "align is 'words'; expected 'spans' or 'diff'" in capsys.readouterr().err


def test_a_file_is_aligned_on_the_command_line_and_its_run_reproduced(
    monkeypatch: Any, tmp_path: Any, of_two_lengths: Any
) -> None:
    (_, asked), out = of_two_lengths, tmp_path / "run"
    assert command(monkeypatch, [*asked, "--align", "diff", "--out", str(out)]) == 0
    written = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert [line.get("alignment") for line in written] == [[0, 1, 1, 2, 3, 4, 5], None]
    assert 'align = "diff"' in (out / "config.toml").read_text()
    assert json.loads((out / "run.json").read_text())["pairs"] == {"aligned": 1}
    again = ["discover", str(out / "pairs.jsonl"), *asked[2:], "--out", str(tmp_path / "again")]
    assert command(monkeypatch, again) == 0
    one, other = (json.loads((place / "run.json").read_text()) for place in (out, tmp_path / "again"))
    assert one["summary"] == other["summary"]


def test_a_run_of_aligned_pairs_is_evaluated_checked_and_shown(
    monkeypatch: Any, tmp_path: Any, of_two_lengths: Any
) -> None:
    (path, asked), out = of_two_lengths, tmp_path / "run"
    assert command(monkeypatch, [*asked, "--align", "diff", "--out", str(out)]) == 0
    assert command(monkeypatch, ["evaluate", str(out), "--parts", "faithfulness", "--random-circuits", "1"]) == 0
    assert command(monkeypatch, ["tasks", "check", str(path), "--align", "diff", "--model", "compiled/and-gate"]) == 0
    assert command(monkeypatch, ["view", str(out), "--out", str(tmp_path / "page.html")]) == 0


def test_answers_of_several_tokens_stand_behind_both_prompts() -> None:
    """Each answer by hand: its tokens behind the prompt, the log probabilities read one by one."""
    model, pairs = tiny("gpt2"), unequal()
    rows = [i for i, pair in enumerate(pairs) if pair.position == len(pair) - 1]
    named: dict[str, Any] = {"align": "spans"}
    named["spans"] = [{"name": [p.differing[0], p.differing[-1] + 1]} for p in (pairs[i] for i in rows)]
    named["corrupted_spans"] = [{"name": [p.differing[0], len(p.corrupted) - 3]} for p in (pairs[i] for i in rows)]
    answers: list[Any] = [[[5, 6], 7], [[8, 9, 10]], [[11, 12]], [[13, 5]]]
    prompts = ([list(getattr(pairs[i], which)) for i in rows] for which in ("clean", "corrupted"))
    both = PromptPairs.from_tokens(*prompts, answers, metric="log_probability", **named)
    assert [len(p.clean) - len(p.corrupted) for p in both] == [-2, 0, 1, -2]
    for circuit, column in ((Circuit.full(model.graph), "clean"), (Circuit.empty(model.graph), "corrupted")):
        wanted = []
        for pair, given in zip(both, answers, strict=True):
            total = torch.zeros((), dtype=torch.float64)
            for answer in (one if isinstance(one, list) else [one] for one in given):
                prompt = getattr(pair, column)
                with torch.no_grad():
                    logits = model.bridge(torch.tensor([[*prompt, *answer]]))[0].log_softmax(-1)
                total = total + sum(logits[len(prompt) - 1 + k, token] for k, token in enumerate(answer)).exp()
            wanted.append(float(total.log()))
        for size in (1, 8):
            result = circuit_metric(model, both, circuit, metric="log_probability", batch_size=size)
            assert result.tolist() == pytest.approx(wanted, abs=1e-9)
    for direction in ("noising", "denoising"):
        one, many = (
            circuits.activation_patching(
                model, both, metric="log_probability", direction=direction, batch_size=size
            ).per_prompt
            for size in (1, 8)
        )
        assert torch.allclose(one, many, atol=1e-9)
    with pytest.raises(PairsError, match="aligned with token 2 of the corrupted prompt, not with its last"):
        PromptPairs.from_tokens([[1, 2, 3]], [[1, 2, 3, 4]], [[[5, 6]]], align="diff")
