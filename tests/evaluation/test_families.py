"""Families of prompts: known mixtures are recovered, one family stays one, and the error rate is simulated."""

import pytest
import torch

import circuits
from circuits import Circuit, InputError, PromptPairs
from circuits.evaluation.family_traits import traits
from circuits.stats.grouping import association, clusters, two_groups_p, unit_gram
from tasks.compiled import TwoWays
from tests.tiny_models import random_pairs, tiny

EDGES = 40


def base(seed: int) -> torch.Tensor:
    return torch.randn(EDGES, generator=torch.Generator().manual_seed(seed))


def continuum(g, n):
    """Each prompt uses two mechanisms in another proportion, from only one to only the other."""
    share = torch.rand(n, 1, generator=g)
    return share * base(1) + (1 - share) * base(2) + 0.1 * torch.randn(n, EDGES, generator=g)


ONE_FAMILY = {
    "normal": lambda g, n: base(1) + torch.randn(n, EDGES, generator=g),
    "of different strength": lambda g, n: (base(1) + 0.5 * torch.randn(n, EDGES, generator=g)) * torch.randn(n, 1, generator=g).exp(),
    "heavy tails": lambda g, n: base(1) + torch.randn(n, EDGES, generator=g) / torch.rand(n, EDGES, generator=g),
    "skewed": lambda g, n: base(1) * torch.randn(n, EDGES, generator=g).exp(),
    "a continuum": continuum,
    "noise alone": lambda g, n: torch.randn(n, EDGES, generator=g),
}  # fmt: skip


@pytest.mark.parametrize("kind", ONE_FAMILY)
def test_one_family_is_split_no_more_often_than_stated(kind):
    """Profiles alone, without the second test, which splits even less."""
    split, draws = 0, 60
    for seed in range(draws):
        rows = ONE_FAMILY[kind](torch.Generator().manual_seed(seed), 32)
        split += two_groups_p(unit_gram(rows), seed) < 0.05
    assert split / draws <= 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5


@pytest.mark.parametrize("share", [0.5, 0.35])
def test_two_families_are_found(share):
    result = 0
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        first = torch.rand(32, generator=g) < share
        rows = torch.where(first[:, None], base(1), base(2)) + 0.5 * torch.randn(32, EDGES, generator=g)
        result += two_groups_p(unit_gram(rows), seed) < 0.05
        labels = clusters(unit_gram(rows), 2, seed)
        assert len(set(zip(labels.tolist(), first.tolist(), strict=True))) == 2
    assert result >= 8


def test_clusters_are_the_best_of_all():
    """Against all divisions of nine rows."""
    for seed in range(5):
        rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed)).double()
        unit = rows / rows.norm(dim=1, keepdim=True)

        def within(labels, unit=unit):
            return sum(
                float((unit[labels == g] - unit[labels == g].mean(0)).square().sum()) for g in set(labels.tolist())
            )

        every = [torch.tensor([bits >> i & 1 for i in range(9)]) for bits in range(1, 2**8)]
        assert within(clusters(unit_gram(rows), 2, seed)) == pytest.approx(min(map(within, every)))


def two_ways(ending="both", n=24, seed=0):
    model = circuits.load_model(TwoWays.bridge())
    pairs = TwoWays(ending).pairs(model, n=n, seed=seed)
    return model, pairs, circuits.edge_attribution(model, pairs, gradient="ig", steps=5)


@pytest.fixture(scope="module")
def two_families():
    """Prompts of one behaviour with two mechanisms, and their families."""
    model, pairs, scores = two_ways()
    return model, pairs, scores, circuits.families(model, pairs, scores, edges=6)


def test_two_mechanisms_for_one_behaviour_are_recovered(two_families):
    _, pairs, _, result = two_families
    marks = [prompt[-1] for prompt in pairs.clean]
    assert result.k == 2
    assert len(set(zip(result.labels.tolist(), marks, strict=True))) == 2
    assert result.p < 0.05
    by_mark = {marks[result.labels.tolist().index(i)]: set(result.circuits[i].edges) for i in range(2)}
    assert by_mark == {1: {"input->a0.h1<v>", "a0.h1->logits"}, 2: {"input->a0.h3<v>", "a0.h3->m1", "m1->logits"}}


def test_each_family_is_explained_by_its_circuit_alone(two_families):
    result = two_families[-1]
    torch.testing.assert_close(result.faithfulness, torch.eye(2, dtype=torch.float64), atol=1e-9, rtol=0)
    assert len(result.core) == 0
    assert "the last token" in result.follows
    assert "2 families" in str(result)


def test_a_given_number_of_families_gives_the_same(two_families):
    model, pairs, scores, result = two_families
    again = circuits.families(model, pairs, scores, k=2, edges=6)
    assert torch.equal(again.labels, result.labels)
    assert again.p < 0.05
    assert again.splits == ()


@pytest.mark.parametrize("ending", ["?", "!"])
def test_one_mechanism_is_one_family(ending):
    model, pairs, scores = two_ways(ending)
    result = circuits.families(model, pairs, scores, edges=6)
    assert result.k == 1
    assert result.traits == ()
    assert result.follows is None
    assert float(result.faithfulness) == pytest.approx(1)
    assert "one family of 24 prompts" in str(result)


def test_random_prompts_of_a_random_model_are_one_family():
    model, split = tiny("gpt2"), 0
    for seed in range(6):
        pairs = random_pairs(n=16, length=4, seed=seed)
        scores = circuits.edge_attribution(model, pairs)
        result = circuits.families(model, pairs, scores, edges=30, groupings=20, seed=seed)
        split += result.k > 1
    assert split <= 1
    assert isinstance(result.circuits[0], Circuit)
    assert set(result.circuits[0].edges) == set(scores.top(30).edges)


def test_profiles_that_differ_with_one_circuit_stay_together():
    """Two modes, but the same strongest edges: no grouping is nearer to the model than a random one."""
    model, pairs, scores = two_ways("?")
    rows = scores.per_prompt.clone()
    names = list(model.graph.edges)
    weak, at = names.index("input->a0.h2<q>"), names.index("input->a0.h1<v>")
    rows[::2, weak] = 0.8 * rows[::2, at]
    altered = circuits.EdgeScores(scores.graph, scores.values, scores.stderr, scores.n_prompts, per_prompt=rows)
    result = circuits.families(model, pairs, altered, edges=6)
    assert result.k == 1
    assert result.splits[0].profiles_p < 0.05
    assert result.splits[0].faithfulness_p > 0.05
    assert result.p > 0.05


def test_association_is_cramers_v():
    labels = torch.tensor([0] * 10 + [1] * 10)
    assert association(labels, ["a"] * 10 + ["b"] * 10, 99, 0) == (pytest.approx(1), 0.01)
    strength, p = association(labels, ["a", "b"] * 10, 99, 0)
    assert strength == pytest.approx(0)
    assert p == 1
    from scipy.stats.contingency import association as scipys

    values = ["a", "b", "c", "a"] * 5
    table = [
        [sum(v == value and g == group for v, g in zip(values, labels.tolist(), strict=True)) for value in "abc"]
        for group in (0, 1)
    ]
    assert association(labels, values, 9, 0)[0] == pytest.approx(scipys(table, method="cramer"))


def test_roles_and_columns_are_named():
    rows = [{"clean": [3 + i % 2, 5, 6 + i % 3], "corrupted": [3 + i % 2, 9, 6 + i % 3], "answers": [7], "distractors": [8],
             "roles": {"A": i % 2, "B": 1 - i % 2}, "kind": "x" if i % 2 else "y", "id": i} for i in range(12)]  # fmt: skip
    pairs = PromptPairs.from_records(rows, tiny("gpt2"))
    result = traits(pairs, torch.tensor([i % 2 for i in range(12)]))
    assert "the order of roles" in result[0].name
    assert "column kind" in result[0].name
    assert result[0].strength == pytest.approx(1)
    assert all(trait.p > 0.05 for trait in result[1:] if trait.strength < 0.3)
    assert not any("column id" in trait.name for trait in result)


def test_what_is_refused():
    model, pairs, scores = two_ways(n=8)
    bare = circuits.EdgeScores(scores.graph, scores.values, scores.stderr, 8)
    grouped = circuits.EdgeScores(scores.graph, scores.values, scores.stderr, 16, per_prompt=scores.per_prompt, group=2)
    few = two_ways(n=4)
    for refused, words in (
        (lambda: circuits.families(model, pairs, bare, edges=6), "prompts have no profiles"),
        (lambda: circuits.families(model, pairs, grouped, edges=6), "mean over 2 prompts; score at most 128"),
        (lambda: circuits.families(model, two_ways(n=8, seed=1)[1], scores, edges=6), "scores are of other pairs"),
        (lambda: circuits.families(*few, edges=6), "at least 8 pairs, got 4"),
        (lambda: circuits.families(model, pairs, scores, k=5, edges=6), "k must be between 1 and 4"),
        (lambda: circuits.families(model, pairs, scores), "between 1 and this graph's 110, got 200"),
        (lambda: circuits.families(model, pairs, scores, edges=6, groupings=5), "at least 20 are needed"),
    ):
        with pytest.raises(InputError, match=words):
            refused()
