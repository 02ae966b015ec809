"""Descriptions of compiled circuits, whose truth is known; the implied interventions against loops; files, command and report."""

import json
from types import SimpleNamespace

import pytest
import torch

import circuits
import tasks
from circuits import InputError, describe, direct_effects, top_neurons
from circuits.descriptions.evidence import Evidence
from circuits.descriptions.extended_embedding import determined_by_token
from circuits.descriptions.implied_tests import (
    clean_runs,
    edge_tests,
    mover_test,
    result_of,
    value_effects,
    whole_question,
)
from circuits.engine.hooks import TokenBatch, inference_state, run
from circuits.results.naming import read_naming
from tasks import compiled
from tests.command import command, discovered
from tests.tiny_models import atol, tiny


def known(name: str, n: int = 8):
    model = circuits.load_model(name)
    pairs = tasks.load(name).pairs(model, n=n)
    scores = circuits.edge_attribution(model, pairs)
    mask = model.graph.mask_of(compiled.structural_edges(model))
    return model, pairs, circuits.Circuit(model.graph, mask, scores.values)


COMPILED = {
    "compiled/induction": {"a0.h1": "previous token", "a1.h2": "induction"},
    "compiled/negative-head": {"a0.h1": "name mover", "a1.h2": "negative mover"},
}


@pytest.fixture(scope="module", params=COMPILED)
def described(request):
    """A compiled circuit, its labels and its description."""
    model, pairs, circuit = known(request.param)
    return SimpleNamespace(
        name=request.param, labels=COMPILED[request.param], model=model, pairs=pairs, circuit=circuit,
        description=describe(model, pairs, circuit),
    )  # fmt: skip


def lines_of(described):
    return {line.node: line for line in described.description.lines}


def test_compiled_circuits_are_described_as_they_were_compiled(described):
    description, lines = described.description, lines_of(described)
    assert dict(description.labels) == described.labels
    assert description.tests
    assert all(test.outcome == "held" for test in description.tests), [str(test) for test in description.tests]
    for node, label in described.labels.items():
        if label in ("name mover", "negative mover", "induction"):
            assert lines[node].evidence["suppresses" if label == "negative mover" else "copies"] > 0.8
            assert "of the task's answers and distractors" in lines[node].text


def test_every_node_has_a_line_with_its_direct_effect(described):
    lines, direct = lines_of(described), direct_effects(described.model, described.pairs)
    assert set(lines) == set(described.circuit.nodes) - {"logits"}
    for node, line in lines.items():
        assert line.evidence["direct effect"] == pytest.approx(direct[node])
        assert f"writes {direct[node]:+.2f}" in line.text


def test_lines_name_what_a_node_reads_and_feeds(described):
    lines = lines_of(described)
    if described.name == "compiled/induction":
        assert lines["a1.h2"].reads["k"] == ("a0.h1",)
        assert lines["a0.h1"].feeds == ("a1.h2<k>",)
    assert "reads its query from" in lines["a1.h2"].text


def test_a_description_is_json_a_table_and_labels_for_the_viewer(described):
    description = described.description
    assert json.loads(json.dumps(description.to_dict(), allow_nan=False))["labels"] == described.labels
    assert len(description.to_pandas()) == len(description.lines)
    assert description.naming.checked(described.model.graph).labels == described.labels


def test_one_pair_gives_no_standard_errors_and_no_verdict(tmp_path):
    model, pairs, circuit = known("compiled/induction", n=1)
    description = describe(model, pairs, circuit)
    description.save(tmp_path / "description.json")
    data = json.loads((tmp_path / "description.json").read_text())
    assert data["lines"][0]["evidence"]["direct effect stderr"] is None
    assert {test["outcome"] for test in data["tests"]} == {"undecided"}


def test_what_cannot_be_said_is_named():
    model, pairs, circuit = known("compiled/induction")
    with_decoy = circuits.Circuit.from_edges(model.graph, [*circuit.edges, "a0.h3->m1", "m1->logits"])
    description = describe(model, pairs, with_decoy, tests=False)
    assert description.tests == ()
    assert "a0.h3" in description.unsaid[0]
    assert "m1" in description.unsaid[1]
    with pytest.raises(InputError, match="no edges"):
        describe(model, pairs, circuits.Circuit.empty(model.graph))
    with pytest.raises(InputError, match="another graph"):
        describe(tiny("gpt2"), pairs, circuit)


def test_neurons_and_readers_are_named_by_chance_at_most_at_the_level():
    """The largest of 40 direct effects, all 0 on average, on 8 prompts."""
    generator = torch.Generator().manual_seed(0)
    direct = SimpleNamespace(clean=torch.full((8,), 1e-3).double(), per_prompt=torch.zeros(1, 8))
    evidence, named = SimpleNamespace(direct=direct), 0
    for _ in range(400):
        effects = torch.randn(40, 8, generator=generator).double()
        best = int(effects.mean(1).abs().argmax())
        stderr = float(effects[best].std()) / 8**0.5
        named += Evidence._sure(evidence, float(effects[best].mean()), stderr, 40)
    assert named / 400 < 0.05 + 2.5 * (0.05 * 0.95 / 400) ** 0.5
    assert Evidence._sure(evidence, 0.5, 0.02, 40)
    direct.clean = torch.full((8,), 30.0).double()  # less than 2% of the metric
    assert not Evidence._sure(evidence, 0.5, 0.02, 40)


def test_wrong_statements_do_not_hold():
    model, pairs, circuit = known("compiled/negative-head")
    question = whole_question(model, pairs)
    right, wrong = mover_test(question, "a0.h1", 1), mover_test(question, "a0.h1", -1)
    assert right is not None
    assert right.outcome == "held"
    assert wrong is not None
    assert wrong.outcome == "failed"
    decoy = mover_test(question, "a1.h0", 1)
    assert decoy is not None
    assert decoy.outcome == "undecided"
    turned = circuits.Circuit(circuit.graph, circuit.mask, -circuit.scores)
    assert [test.outcome for test in edge_tests(question, turned, {"a0.h1": "x"}, 1)] == ["failed"]


def test_an_effect_of_zero_holds_by_chance_at_most_at_the_level():
    generator = torch.Generator().manual_seed(0)
    outcomes = [result_of("a", "", torch.randn(8, generator=generator).double(), None).held for _ in range(1000)]
    for held in (True, False):
        assert sum(outcome is held for outcome in outcomes) / 1000 < 0.05 + 3 * (0.05 * 0.95 / 1000) ** 0.5
    assert result_of("a", "", torch.tensor([1.0, 1.0, 1.0, 1.1]).double(), 0.9).outcome == "failed"
    assert result_of("a", "", torch.tensor([1.0, 1.0]).double(), None).outcome == "undecided"


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_values_of_the_next_pair_against_one_run_a_pair(name):
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, 40, (4, 6), generator=generator).tolist()
    pairs = circuits.PromptPairs.from_tokens(
        prompts, prompts[1:] + prompts[:1], [p[2] for p in prompts], [p[3] for p in prompts]
    )
    model, places = tiny(name), [[2], [2, 1], [2], [2]]
    question = whole_question(model, pairs)
    got = value_effects(question, "a1.h1", places, clean_runs(question, ["a1.h1"]))
    block, group = model.architecture.blocks[1], model.graph.group_size
    runs = []
    with inference_state(model.bridge), torch.no_grad():
        for prompt in prompts:
            seen = {}
            tokens = TokenBatch(torch.tensor([prompt]), torch.tensor([5]))
            pattern = model.bridge.hook_dict["blocks.1.attn.hook_pattern"]
            hooks = [
                (block.v, lambda x, s=seen: s.__setitem__("v", x)),
                (pattern, lambda x, s=seen: s.__setitem__("p", x)),
            ]
            runs.append((tokens, run(model.architecture, tokens, hooks)[0], seen))
        for i, (tokens, clean, seen) in enumerate(runs):
            other = runs[(i + 1) % 4][2]["v"][0, places[(i + 1) % 4][0], 1 // group]
            values = seen["v"].clone().repeat_interleave(group, 2)[0, :, 1]
            for place in places[i]:
                values[place] = other

            def replaced(z, values=values, weights=seen["p"][0, 1, 5]):
                z = z.clone()
                z[0, 5, 1] = weights.to(values) @ values
                return z

            patched = run(model.architecture, tokens, [(block.z, replaced)])[0]
            change = (clean - patched)[pairs.answers[i][0]] - (clean - patched)[pairs.distractors[i][0]]
            assert float(got[i]) == pytest.approx(float(change), abs=10 * atol(name))


def test_how_much_of_the_first_mlp_its_token_determines():
    model, prompts = tiny("llama"), [[1, 5, 6, 7], [1, 6, 5, 8], [1, 9, 5, 6]]
    pairs = circuits.PromptPairs.from_tokens(prompts, prompts, [2, 2, 2], [3, 3, 3])

    def first(prompt):
        with torch.no_grad():
            return model.bridge.run_with_cache(torch.tensor([prompt]))[1]["blocks.0.hook_mlp_out"][0]

    missed, all_ = 0.0, []
    for prompt in prompts:
        for token, write in zip(prompt[1:], first(prompt)[1:], strict=True):
            missed += float((write - first([1, token])[1]).square().sum())
            all_.append(write)
    writes = torch.stack(all_)
    assert determined_by_token(model, pairs) == pytest.approx(
        1 - missed / float((writes - writes.mean(0)).square().sum()), abs=1e-5
    )
    assert determined_by_token(tiny("native-attention-only"), pairs) is None


def test_top_neurons_by_direct_and_by_exact_effects():
    model = tiny("gpt2")
    prompts = [[3, 5, 6, 7], [4, 6, 5, 8], [7, 9, 5, 6]]
    pairs = circuits.PromptPairs.from_tokens(prompts, prompts[1:] + prompts[:1], [2, 2, 2], [3, 3, 3])
    top = top_neurons(model, pairs, ["m1", "m2"], top=2)
    all_ = direct_effects(model, pairs, nodes="neurons")
    for layer, chosen in ((1, top.neurons[:2]), (2, top.neurons[2:])):
        own = {name: abs(value) for name, value in all_.to_dict().items() if name.startswith(f"m{layer}.")}
        assert list(chosen) == sorted(own, key=lambda name: -own[name])[:2]
    index = int(top.neurons[0].split("n")[1])
    out, norm = model.bridge.blocks[1].mlp.W_out[index], model.architecture.final_norm
    logits = ((out - out.mean()) * norm.weight) @ model.bridge.unembed.W_U
    assert top.promotes[0] == tuple(map(str, logits.topk(5).indices.tolist()))
    exact = top_neurons(model, pairs, ["m1"], top=1, by="effect")
    patched = circuits.activation_patching(model, pairs, nodes=list(exact.neurons), direction="noising")
    assert exact.effect is not None
    assert float(exact.effect[0]) == pytest.approx(patched[exact.neurons[0]])
    with pytest.raises(InputError, match="expected MLPs"):
        top_neurons(model, pairs, ["a0.h0"])


def test_the_command_writes_a_description_that_export_and_the_report_read(monkeypatch, tmp_path, capsys):
    made = discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    capsys.readouterr()
    command("describe", made)
    shown = capsys.readouterr().out
    data = json.loads((tmp_path / "eap" / "description.json").read_text())
    assert all(line["node"] in shown for line in data["lines"])
    assert read_naming(tmp_path / "eap" / "labels.json").labels == data["labels"] if data["labels"] else True
    page = tmp_path / "report.html"
    command("report", made, "--out", page)
    assert "what each part does" in page.read_text()
    (tmp_path / "eap" / "description.json").write_text(json.dumps({**data, "unsaid": ["x"]}))
    command("report", made, "--out", page, code=2)
    assert "describe the run again" in capsys.readouterr().err
    command("describe", tmp_path / "nowhere", code=2)
