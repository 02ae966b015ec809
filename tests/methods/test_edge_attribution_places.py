"""Edge attribution by place: sums, the exact derivative of an edge at a place, circuits chosen from it, and files."""

import pytest
import torch

from circuits import EdgeScores, InputError, circuit_metric, edge_attribution
from circuits.engine.ablate_places import ablated_at_places
from circuits.graph.places import Places, over
from circuits.question.places import SpanTable
from circuits.question.question import Question
from tests.naive_places import NAIVE, effects_at_places
from tests.placed_pairs import placed_pairs, spans_of
from tests.tiny_models import atol, random_hf_model, tiny

SEVERAL = ("gpt2", "llama", "neox", "gemma2", "mistral", "native-attention-only")
"""MHA, grouped keys, parallel blocks, post-norms with soft cap, a sliding window, no MLPs."""
RULES = (
    {"gradient": "clean", "check_sign": False},
    {"gradient": "ig", "steps": 2},
    {"gradient": "conductance", "steps": 2},
    {"gradient": "ig-activations", "steps": 1},
    {"gradient": "relp"},
    {"gradient": "gim"},
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["gradient"])
@pytest.mark.parametrize("name", SEVERAL)
def test_effects_sum_over_destinations_to_the_place_and_over_places_to_the_edge(name, rule):
    model, pairs = tiny(name), placed_pairs(n=3)
    whole = edge_attribution(model, pairs, **rule)
    at_places = edge_attribution(model, pairs, positions="spans", **rule)
    for_queries = edge_attribution(model, pairs, positions="spans", destinations=True, **rule)
    scale = float(whole.values.abs().max())
    for scores in (at_places, for_queries):
        torch.testing.assert_close(scores.values, whole.values, rtol=0, atol=1e-6 * scale)
    summed: dict[str, float] = {}
    for edge, effect in for_queries.to_dict(places=True).items():
        place = edge.partition("=>")[0]
        summed[place] = summed.get(place, 0.0) + effect
    assert summed == pytest.approx(at_places.to_dict(places=True), abs=1e-6 * scale)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_an_effect_at_a_place_is_the_derivative_of_the_metric_by_that_edge(name):
    """EAP is linear: it must agree with a small step towards the ablated value of one edge at one place, for one span of queries."""
    model, pairs = tiny(name), placed_pairs(n=2)
    scores = edge_attribution(
        model, pairs, gradient="clean", positions="spans", destinations=True, check_sign=False
    ).over_places()
    question, graph = Question.ask(model, pairs), scores.graph
    (batch,) = question.batches()
    own, clean = question.clean_run(batch.suffix)
    corrupted = question.replacement(batch.suffix, clean)
    step = 1e-5 if atol(name) < 1e-6 else 1e-2
    near = clean.combine(corrupted, lambda a, b: a + step * (b - a))
    spans = SpanTable(pairs).of_tokens(batch)
    strong = [edge for edge, _, _ in scores.strongest(60)][::6]
    for edge in [*strong, *(e for e, _, _ in scores.strongest(200) if "=>" in e)][:20]:
        ((w, r),) = graph.named(edge)
        keep = graph.edge_mask.clone()
        keep[w, r] = False
        moved = ablated_at_places(model.architecture, batch.suffix, near, graph, keep, spans)
        change = question.metric(own, batch.targets) - question.metric(moved, batch.targets)
        assert float(change.mean()) / step == pytest.approx(scores[edge], abs=2e-2 * float(scores.values.abs().max()))


@pytest.mark.parametrize("name", NAIVE)
def test_all_effects_are_those_of_the_naive_pass_token_by_token_and_query_by_query(name):
    model, naive, pairs = tiny(name), NAIVE[name](random_hf_model(name)), placed_pairs(n=2)
    options = {"gradient": "clean", "positions": "spans", "destinations": True, "check_sign": False}
    effects = edge_attribution(model, pairs, **options).to_dict(places=True)
    twins = [
        effects_at_places(
            naive, torch.tensor(pair.clean), torch.tensor(pair.corrupted), pair.answers[0], pair.distractors[0],
            spans_of(pairs, i),
        )
        for i, pair in enumerate(pairs)
    ]  # fmt: skip
    wanted = {edge: sum(twin.get(edge, 0.0) for twin in twins) / len(twins) for edge in effects}
    assert sum(value != 0 for value in wanted.values()) > len(effects) / 3
    assert effects == pytest.approx(wanted, abs=atol(name) * max(map(abs, wanted.values())))


def test_circuits_are_chosen_among_edges_at_places():
    model, pairs = tiny("llama"), placed_pairs()
    scores = edge_attribution(model, pairs, positions="spans", destinations=True)
    for rule in ("top", "greedy", "positive-share"):
        circuit = scores.select(60, rule, fill=True, places=True)
        assert 0 < len(circuit) <= 60
        assert circuit.places == pairs.spans
        assert circuit == circuit.pruned()
        assert circuit_metric(model, pairs, circuit).isfinite().all()
    assert circuit == scores.over_places().select(60, "positive-share", fill=True)
    assert len(scores.optimal(20, places=True)) <= 20
    assert scores.top(60).places is None


def test_every_token_is_a_place_of_its_own():
    model, pairs = tiny("gpt2"), placed_pairs()
    each = edge_attribution(model, pairs, positions="each")
    assert each.over_places().places == tuple(map(str, range(7)))
    queries = edge_attribution(model, pairs, positions="each", destinations=True)
    name = next(edge for edge, _, _ in queries.over_places().strongest(300) if "=>" in edge)
    place = name.partition("=>")[0]
    assert queries[place] == pytest.approx(each[place], abs=1e-9)
    circuit = each.top(50, fill=True, places=True)
    assert circuit_metric(model, pairs, circuit).isfinite().all()


def test_effects_by_place_survive_their_file(tmp_path):
    model, pairs = tiny("llama"), placed_pairs()
    scores = edge_attribution(model, pairs, positions="spans", destinations=True)
    scores.save(tmp_path / "scores.safetensors")
    read = EdgeScores.load(tmp_path / "scores.safetensors")
    assert read.places == scores.places
    assert torch.equal(read.over_places().values, scores.over_places().values)
    assert torch.equal(read.over_places().per_prompt, scores.over_places().per_prompt.float())
    assert read.top(40, places=True) == scores.top(40, places=True)


def test_a_circuit_that_does_not_know_places_is_spread_over_them():
    model, pairs = tiny("gpt2"), placed_pairs()
    scores = edge_attribution(model, pairs)
    places = Places(pairs.spans, read=("end",))
    spread = scores.spread(places)
    # Six edges into heads and MLPs, at four places each.
    chosen = spread.top(24)
    for edge in chosen.without_places().edges:
        w, r = model.graph.edge_index(edge)
        assert spread[f"{edge}@end"] == pytest.approx(float(scores.values[w, r]))
    assert over(model.graph, places).n_edges == spread.graph.n_edges


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "roles", "destinations": True}, "destinations=True needs positions='spans' or 'each'"),
        ({"destinations": True}, "destinations=True needs"),
    ],
)
def test_destinations_need_places_that_cover_the_prompt(options, message):
    with pytest.raises(InputError, match=message):
        edge_attribution(tiny("gpt2"), placed_pairs(), **options)


def test_circuits_of_places_that_the_prompts_do_not_have_are_refused():
    model, pairs = tiny("gpt2"), placed_pairs()
    other = over(model.graph, Places(("start", "middle", "end")))
    with pytest.raises(InputError, match="start, middle, end"):
        circuit_metric(model, pairs, type(edge_attribution(model, pairs).top(5)).full(other))
    named = type(edge_attribution(model, pairs).top(5)).from_edges(model.graph, ["input->logits@S9"])
    with pytest.raises(InputError, match="no place S9"):
        circuit_metric(model, pairs, named)
