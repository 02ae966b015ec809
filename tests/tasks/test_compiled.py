"""Models whose circuit is known: what they compute, which edges carry it, and what brute force says of these."""

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from functools import cache

import pytest
import torch

import circuits
import tasks
from circuits import Circuit, InputError, Model, ModelError, PromptPairs, circuit_metrics, exact_edge_effects, recovery
from circuits.engine.ablate import ablated_logits
from circuits.engine.hooks import inference_state
from circuits.question.question import Question
from tasks import compiled
from tasks.compiled import Head, Mlp, Network, compile_network

NAMES = sorted(name for name in tasks.COMPILED if name.startswith("compiled/"))
ABLATIONS = ("interchange", "zero", "mean")
EDGES = {
    "compiled/and-gate": "input->a0.h0<k> input->a0.h2<k> input->a0.h0<v> input->a0.h2<v> a0.h0->m0 a0.h2->m0 m0->logits",
    "compiled/dyck": "input->a0.h0<v> a0.h0->m0 a0.h0->m1 m0->a1.h1<v> a1.h1->m1 m1->logits",
    "compiled/fraction": "input->a0.h2<k> input->a0.h2<v> a0.h2->logits",
    "compiled/greater-than": "input->a0.h1<k> input->a0.h1<v> a0.h1->m0 a0.h1->m1 m0->logits m1->logits",
    "compiled/histogram": "input->a0.h1<q> input->a0.h1<k> input->a0.h1<v> a0.h1->m0 m0->logits",
    "compiled/induction": "input->a0.h1<q> input->a0.h1<k> input->a0.h1<v> input->a1.h2<q> input->a1.h2<v> input->logits "
    "a0.h1->a1.h2<k> a1.h2->logits",
    "compiled/negative-head": "input->a0.h1<k> input->a0.h1<v> a0.h1->a1.h2<q> input->a1.h2<k> input->a1.h2<v> a0.h1->logits "
    "a1.h2->logits",
    "compiled/or-gate": "input->a0.h0<k> input->a0.h2<k> input->a0.h0<v> input->a0.h2<v> a0.h0->m0 a0.h2->m0 m0->logits",
    "compiled/reverse": "input->a0.h0<k> input->a0.h0<v> input->m0 a0.h0->m0 m0->a1.h1<q> input->a1.h1<k> input->a1.h1<v> "
    "a1.h1->logits",
    "compiled/sort": "input->a0.h2<q> input->a0.h2<k> input->a0.h2<v> a0.h2->logits",
}  # fmt: skip
"""The edges that each program's own description speaks of."""


@cache
def model_of(name: str) -> Model:
    return circuits.load_model(name)


@cache
def pairs_of(name: str, n: int = 6) -> PromptPairs:
    return tasks.load(name).pairs(model_of(name), n)


def logits_of(model: Model, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.stack([model.bridge(torch.tensor([list(ids)]))[0, -1] for ids in prompts])


@cache
def active(name: str, ablation: str) -> tuple[str, ...]:
    return compiled.active_edges(model_of(name), pairs_of(name), ablation)


@pytest.mark.parametrize("name", NAMES)
class TestEveryProgram:
    def test_it_computes_its_function(self, name: str) -> None:
        model, task = model_of(name), tasks.load(name)
        for pair in task.pairs(model, 25, seed=3):
            prompts = pair.clean, pair.corrupted
            for ids, logits in zip(prompts, logits_of(model, prompts), strict=True):
                right = task.solve(ids)
                others = [token for token in range(model.d_vocab) if token not in right]
                assert logits[list(right)].min() > logits[others].max() + 1

    def test_it_loads_by_name_in_float64_and_is_the_same_every_time(self, name: str) -> None:
        model = circuits.load_model(name)
        assert (model.name, model.dtype, model.revision) == (name, torch.float64, None)
        assert model.weights_hash == model_of(name).weights_hash
        assert max(model.report.residual, model.report.all_kept, model.report.none_kept) < 1e-12
        assert not model.report.prefix_exact  # TransformerLens' own models take no cache

    def test_its_structural_edges_are_those_of_its_description(self, name: str) -> None:
        assert set(compiled.structural_edges(model_of(name))) == set(EDGES[name].split())

    @pytest.mark.parametrize("ablation", ABLATIONS)
    def test_everything_outside_the_structural_edges_can_go(self, name: str, ablation: str) -> None:
        model, pairs = model_of(name), pairs_of(name)
        circuit = Circuit.from_edges(model.graph, compiled.structural_edges(model))
        question = Question.ask(model, pairs, None, ablation)
        with inference_state(model.bridge):
            for batch in question.batches():
                clean, writes = question.clean_run(batch.suffix)
                replacement = question.replacement(batch.suffix, writes)
                kept = ablated_logits(model.architecture, batch.suffix, replacement, circuit.mask)
                torch.testing.assert_close(kept, clean, atol=1e-9, rtol=0)

    @pytest.mark.parametrize("ablation", ABLATIONS)
    def test_active_edges_are_structural_and_exact_patching_finds_them(self, name: str, ablation: str) -> None:
        model, pairs = model_of(name), pairs_of(name)
        result = active(name, ablation)
        assert result
        assert set(result) <= set(EDGES[name].split())
        exact = exact_edge_effects(model, pairs, ablation=ablation).to_scores()
        assert recovery(exact, result).auroc == 1
        for level in ("merged", "nodes"):
            assert recovery(exact, result, level=level).auroc == 1

    def test_under_mean_ablation_every_structural_edge_counts(self, name: str) -> None:
        assert set(compiled.jointly_active_edges(model_of(name), pairs_of(name, 3), "mean")) == set(EDGES[name].split())

    def test_the_model_of_another_task_is_refused(self, name: str) -> None:
        other = "compiled/sort" if name != "compiled/sort" else "compiled/dyck"
        with pytest.raises(InputError, match=f"is made of the token ids of the model {name} "):
            tasks.load(name).pairs(model_of(other), 2)


class TestTruth:
    @pytest.mark.parametrize(
        ("counterfactual", "ablation", "sizes"),
        [("random", "zero", (8, 7)), ("random", "interchange", (6, 5)), ("answer", "interchange", (2, 2))],
    )
    def test_it_depends_on_ablation_data_and_metric(
        self, counterfactual: str, ablation: str, sizes: tuple[int, int]
    ) -> None:
        """What the embedding says against the present token shows in the logits, but not in the logit difference."""
        model = model_of("compiled/induction")
        pairs = tasks.load("compiled/induction", counterfactual=counterfactual).pairs(model, 4)
        metrics = "kl_divergence", "logit_difference"
        result = tuple(len(compiled.active_edges(model, pairs, ablation, metric=metric)) for metric in metrics)
        assert result == sizes

    def test_backup_heads_are_jointly_active_only(self) -> None:
        model, pairs = model_of("compiled/or-gate"), pairs_of("compiled/or-gate")
        assert active("compiled/or-gate", "interchange") == ("m0->logits",)
        joint = compiled.jointly_active_edges(model, pairs)
        assert set(joint) == {"input->a0.h0<v>", "input->a0.h2<v>", "a0.h0->m0", "a0.h2->m0", "m0->logits"}
        exact = exact_edge_effects(model, pairs).to_scores()
        assert recovery(exact, joint).auroc < 1

    def test_jointly_active_edges_by_ablating_pairs(self) -> None:
        """On the OR gate no more than two heads' edges have to go together."""
        model, pairs = model_of("compiled/or-gate"), pairs_of("compiled/or-gate", 2)
        full, edges = Circuit.full(model.graph), compiled.structural_edges(model)
        less = {(a, b): full - Circuit.from_edges(model.graph, [a, b]) for a in edges for b in edges}
        values = dict(zip(less, circuit_metrics(model, pairs, list(less.values()), ablation="zero"), strict=True))
        result = {b for a, b in less if float((values[a, b] - values[a, a]).abs().max()) > 1e-9}
        assert result == set(compiled.jointly_active_edges(model, pairs, "zero"))

    def test_a_negative_head_hurts(self) -> None:
        model, pairs = model_of("compiled/negative-head"), pairs_of("compiled/negative-head")
        effects = exact_edge_effects(model, pairs).to_dict()
        assert effects["a1.h2->logits"] < -1
        assert effects["a0.h1->logits"] > 1

    def test_models_with_a_norm_or_many_edges_are_refused(self) -> None:
        from tests.tiny_models import random_pairs, tiny

        with pytest.raises(InputError, match="without norms"):
            compiled.structural_edges(tiny("gpt2"))
        with pytest.raises(InputError, match="without norms"):
            compiled.structural_edges(tiny("native"))
        trained = circuits.load_model("trained/induction")
        with pytest.raises(InputError, match="has 81 structural edges; all their subsets are tried for at most 12"):
            compiled.jointly_active_edges(trained, random_pairs(2))


class TestNames:
    def test_an_unknown_name_gives_the_nearest(self) -> None:
        with pytest.raises(
            InputError, match="there is no model 'compiled/inductoin'; did you mean 'compiled/induction'"
        ):
            circuits.load_model("compiled/inductoin")
        with pytest.raises(InputError, match="there is no task 'compiled/sorted'; did you mean 'compiled/sort'"):
            tasks.load("compiled/sorted")
        with pytest.raises(InputError, match="there is no model 'compiled/'"):
            circuits.load_model("compiled/")
        with pytest.raises(ModelError, match="Did you mean 'compiled/sort'"):
            circuits.load_model("compile/sort")

    def test_underscores_are_hyphens_and_a_dtype_can_be_asked_for(self) -> None:
        model = circuits.load_model("compiled/or_gate", dtype="float32")
        assert (model.name, model.dtype) == ("compiled/or-gate", torch.float32)
        with pytest.raises(InputError, match="has no revisions"):
            circuits.load_model("compiled/or-gate", revision="main")

    def test_the_command_discovers_what_is_there(self, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
        from circuits import Circuit
        from circuits.cli import app

        out = tmp_path / "run"
        name = "compiled/induction"
        options = ["--model", name, "--n", "8", "--edges", "5", "--method", "eap-ig", "--out", str(out)]
        app(["discover", name, *options], standalone_mode=False)
        assert set(Circuit.from_json(out / "circuit.json").edges) <= set(EDGES[name].split())
        capsys.readouterr()

    def test_the_commands_list_them(self) -> None:
        code = (
            "import tasks; from circuits.cli import app; app(['models'], standalone_mode=False); "
            "app(['tasks', '--examples', '--model', 'compiled/sort'], standalone_mode=False)"
        )
        shown = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "160"},
        ).stdout
        models, listed = shown.split("Any other name")
        for name in NAMES:
            assert name in models
            assert name in listed
        assert "BOS on on" in listed
        assert "is text, but compiled/sort has no tokenizer" in " ".join(listed.split())

    def test_what_is_no_model_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from circuits import plugins

        monkeypatch.setitem(plugins._PROVIDED, plugins.MODELS, {"theirs": "tasks.ioi:IOI", "gone": "tasks.gone:X"})
        with pytest.raises(InputError, match=r"model 'theirs' \(tasks.ioi:IOI\) has no description and bridge\(\)"):
            circuits.load_model("theirs")
        with pytest.raises(InputError, match=r"model 'gone' .* cannot be loaded"):
            circuits.load_model("gone")


class TestCompiler:
    def test_a_network_that_names_what_it_lacks_is_refused(self) -> None:
        one = torch.ones(1, 1, dtype=torch.float64)
        copy = torch.eye(3, dtype=torch.float64)
        head = Head("token", "token", copy)
        with pytest.raises(InputError, match=r"no head 'a7\.h0'"):
            compile_network(Network(3, 4, {}, {"a7.h0": head}, {}))
        with pytest.raises(InputError, match="no MLP 'm7'"):
            compile_network(Network(3, 4, {}, {}, {}, {"m7": Mlp({"one": one}, one[0], {"one": one})}))
        with pytest.raises(InputError, match="no space 'nowhere'; its spaces: token, position, one, junk"):
            compile_network(Network(3, 4, {}, {"a0.h0": Head("nowhere", "token", copy)}, {}))

    def test_a_head_is_its_equation(self) -> None:
        """One head with query, key, bias and copy, against the sum written out."""
        generator = torch.Generator().manual_seed(0)
        match, bias, copy = (
            0.05 * torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((5, 6), (6,), (5, 2))
        )
        head = Head("token", "found", copy, key="position", query="token", match=match, bias=bias)
        unembed = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        bridge = compile_network(Network(5, 6, {"found": 2}, {"a1.h3": head}, {"found": unembed}))
        tokens = [random.Random(0).randrange(5) for _ in range(6)]
        token, position = torch.eye(5, dtype=torch.float64)[tokens], torch.eye(6, dtype=torch.float64)
        scores = 30 * (token @ match + bias) @ position.T
        pattern = scores.masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
        torch.testing.assert_close(bridge(torch.tensor([tokens]))[0], pattern @ token @ copy @ unembed)


class TestTrained:
    def test_it_predicts_the_next_token_almost_always(self) -> None:
        model, task = circuits.load_model("trained/induction"), tasks.load("trained/induction")
        pairs = task.pairs(model, 300, seed=11)
        right = 0
        for batch in pairs.batches(300):
            logits = model.bridge(batch.clean)[:, -1]
            right += int((logits.argmax(-1) == batch.answers[:, 0]).sum())
        assert right / len(pairs) >= 0.99

    def test_its_weights_are_small_and_all_there(self) -> None:
        from importlib.resources import files

        model = circuits.load_model("trained/induction")
        assert sum(p.numel() for p in model.bridge.parameters()) == 44_032
        assert (files("tasks.trained") / "induction.safetensors").stat().st_size < 182_000
        assert model.dtype == torch.float32
        assert (model.graph.n_edges, model.graph.mlps) == (81, (False, False))

    def test_a_training_sequence_repeats_and_only_what_is_determined_counts(self) -> None:
        from tasks.trained.train import sequences

        tokens, known = sequences(4, torch.Generator().manual_seed(0))
        length = int(known.nonzero()[0]) - 1
        assert tokens.shape == (4, 40)
        for row in tokens.tolist():
            assert all(row[i + 1] == row[i + 1 - length] for i, counts in enumerate(known.tolist()) if counts)
            assert len(set(row[1 : length + 1])) == length


AT_PLACES = {
    "compiled/induction": {
        "input->a0.h1<v>@before=>answer",
        "a0.h1->a1.h2<k>@answer=>end",
        "input->a1.h2<v>@answer=>end",
    },
    "compiled/and-gate": {"input->a0.h0<v>@flag1=>end", "input->a0.h2<v>@flag2=>end", "m0->logits@end"},
    "compiled/greater-than": {"input->a0.h1<v>@digit=>end", "a0.h1->m0@end", "m0->logits@end"},
    "compiled/negative-head": {"input->a0.h1<v>@answer=>end", "a0.h1->a1.h2<q>@end", "input->a1.h2<v>@answer=>end"},
    "compiled/sort": {"input->a0.h2<v>@numbers=>sorted", "input->a0.h2<q>@sorted"},
}
"""What the programs say: where their heads read, and for which query."""


@pytest.mark.parametrize("name", AT_PLACES)
def test_the_truth_over_places_is_where_the_program_reads(name):
    model = circuits.load_model(name)
    pairs = tasks.load(name).pairs(model, 4)
    active = set(compiled.active_edges(model, pairs, positions="spans", destinations=True))
    assert active >= AT_PLACES[name]
    assert {edge.partition("@")[0] for edge in active} >= set(compiled.active_edges(model, pairs)) - {"input->logits"}
    scores = circuits.edge_attribution(model, pairs, positions="spans", destinations=True).over_places()
    truth = circuits.Circuit.from_edges(scores.graph, active)
    assert circuits.recovery(scores, truth, level="edges").auroc == pytest.approx(1.0)
