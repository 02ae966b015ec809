"""Edge scores: listing, spread, significance, statistics over prompts, files. Selection is in test_selection.py."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import stats

from circuits import EdgeScores, Graph, InputError, edge_attribution
from circuits.measure.edge_statistics import EdgeStatistics
from circuits.results.edge_scores import TENSORS
from circuits.results.provenance import frozen
from circuits.stats.bootstrap import PromptRows, bootstrap_interval, row_sizes, t_interval, t_p_values
from tests.tiny_models import random_pairs, tiny

GRAPH = Graph(2, 4, 2, (True, True))


def example(seed=0):
    generator = torch.Generator().manual_seed(seed)
    values, stderr = (torch.randn(GRAPH.edge_mask.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = GRAPH.edge_mask
    return EdgeScores(GRAPH, values * mask, stderr.abs() * mask, 7, frozen({"method": "test"}))


def effects(n=12, seed=0):
    """Effects [prompt, writer, reader]: of every fifth edge far from zero, of some near it, of the first exactly 0."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(n, GRAPH.n_edges, generator=generator, dtype=torch.float64)
    flat[:, ::10] += 4
    flat[:, 5::10] -= 4
    flat[:, 2::5] += 1
    flat[:, 0] = 0
    dense = torch.zeros(n, *GRAPH.edge_mask.shape, dtype=torch.float64)
    dense[:, GRAPH.edge_mask] = flat
    return dense


def gathered(dense, batch_size=5, limit=2**20, index=None, positions=None):
    statistics = EdgeStatistics(GRAPH, limit)
    for start in range(0, len(dense), batch_size):
        chunk = slice(start, start + batch_size)
        statistics.add(dense[chunk], None if index is None else index[chunk])
    if positions:
        statistics.add_positions(torch.stack([dense, -dense], dim=3))
    return statistics.scores({"method": "test"}, positions)


@pytest.mark.parametrize("room", [4, 100])
def test_a_node_is_the_sum_of_its_out_edges(room):
    dense = effects()
    nodes = gathered(dense, limit=room * 4 * GRAPH.n_edges).to_nodes()
    assert nodes.nodes == GRAPH.writer_names
    assert nodes.n_prompts == len(dense)
    torch.testing.assert_close(nodes.values, dense.mean(0).sum(1).double(), rtol=1e-5, atol=1e-6)
    if room == 100:
        torch.testing.assert_close(nodes.per_prompt, dense.sum(2).T.double(), rtol=1e-5, atol=1e-6)


# --- listing ----------------------------------------------------------------------------------------------------------


def test_strongest_lists_effects_with_their_errors():
    scores = example()
    listed = scores.strongest(5)
    ranked = sorted((abs(score) for score in scores.to_dict().values()), reverse=True)
    assert [abs(score) for _, score, _ in listed] == ranked[:5]
    for edge, score, stderr in listed:
        index = scores.graph.edge_index(edge)
        assert (score, stderr) == (float(scores.values[index]), float(scores.stderr[index]))


def test_ties_are_broken_by_graph_order():
    graph = Graph(1, 2, 2, (True,))
    scores = EdgeScores(graph, graph.edge_mask.double(), graph.edge_mask.double(), 1)
    assert [edge for edge, _, _ in scores.strongest(3)] == list(graph.edges[:3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"values": torch.zeros(2, 2), "stderr": torch.zeros(2, 2)}, "values has shape"),
        ({"per_prompt": torch.zeros(6, GRAPH.n_edges)}, "per_prompt has shape"),
        ({"group": 2, "per_prompt": torch.zeros(7, GRAPH.n_edges)}, "per_prompt has shape"),
        ({"positions": ("IO",)}, "come together"),
        ({"positions": ("IO",), "by_position": torch.zeros(*GRAPH.edge_mask.shape, 2)}, "by_position has shape"),
    ],
)
def test_what_does_not_fit_the_graph_is_refused(wrong, message):
    whole = {"values": example().values, "stderr": example().stderr, "n_prompts": 7}
    with pytest.raises(InputError, match=message):
        EdgeScores(GRAPH, **(whole | wrong))


# --- statistics over prompts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_means_and_errors_are_those_of_all_prompts_at_once_and_effects_are_kept_in_order(batch_size):
    dense = effects()
    scores = gathered(dense, batch_size)
    torch.testing.assert_close(scores.values, dense.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scores.stderr, dense.std(0) / 12**0.5, rtol=1e-9, atol=1e-9)
    assert torch.equal(scores.per_prompt, dense[:, GRAPH.edge_mask].float())


def test_prompts_are_put_back_in_their_own_order():
    dense, index = effects(), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    one, other = gathered(dense), gathered(dense[index], 5, index=index)
    assert torch.equal(one.per_prompt, other.per_prompt)
    assert all(torch.equal(a, b) for a, b in zip(one.interval(), other.interval(), strict=True))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_when_room_is_short_neighbouring_prompts_share_a_row(n, room, batch_size):
    values = torch.arange(n * 3, dtype=torch.float64).reshape(n, 3)
    rows = PromptRows(3, limit=room * 12)
    for start in range(0, n, batch_size):
        rows.add(values[start : start + batch_size])
    chunks = values.split(rows.group)
    assert torch.equal(rows.means(), torch.stack([chunk.mean(0) for chunk in chunks]).float())
    assert row_sizes(n, rows.group).tolist() == [len(chunk) for chunk in chunks]
    assert len(chunks) <= max(2, room)
    assert rows.group == 1 or n > rows.most * rows.group // 2


def test_memory_does_not_grow_with_the_prompts():
    dense = effects(200)
    scores = gathered(dense, 16, limit=50 * 4 * GRAPH.n_edges)
    assert (scores.group, len(scores.per_prompt)) == (4, 50)
    low, high = scores.interval()
    assert bool(((low <= scores.values + 1e-6) & (scores.values - 1e-6 <= high)).all())
    whole_low, whole_high = gathered(dense).interval()
    # Fifty groups of four spread as two hundred prompts do, to the error of a spread from fifty numbers (10%).
    ratio = ((high - low) / (whole_high - whole_low))[GRAPH.edge_mask][1:]
    assert abs(float(ratio.mean()) - 1) < 0.05
    assert float(ratio.std()) < 0.15


def test_edge_attribution_keeps_effects_in_the_order_of_the_pairs():
    model, pairs = tiny("gpt2"), random_pairs(5)
    mixed = type(pairs).from_pairs([*(pair for pair in pairs), *(pair for pair in random_pairs(2, length=5, seed=1))])
    scores = edge_attribution(model, mixed, gradient="ig", steps=1, batch_size=2)
    for i in (0, 4, 5, 6):
        alone = edge_attribution(model, mixed[[i]], gradient="ig", steps=1).values[model.graph.edge_mask]
        torch.testing.assert_close(scores.per_prompt[i].double(), alone, rtol=1e-5, atol=1e-6)
    other = edge_attribution(model, mixed, gradient="ig", steps=1, batch_size=7)
    for one, two in zip(scores.interval(), other.interval(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


# --- intervals ----------------------------------------------------------------------------------------------------------


def naive_bootstrap(values, sizes, level, resamples, seed):
    """One entry, one resample at a time, on the same draws."""
    n = len(values)
    draws = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    means = []
    for draw in draws.tolist():
        prompts = sum(sizes[i] for i in draw)
        means.append(sum(values[i] * sizes[i] for i in draw) / prompts)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return torch.quantile(torch.tensor(means, dtype=torch.float64), ends).tolist()


@pytest.mark.parametrize("sizes", [None, [2, 2, 2, 2, 1]])
def test_the_bootstrap_is_the_naive_loop(sizes):
    values = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weights = None if sizes is None else torch.tensor(sizes).double()
    low, high = bootstrap_interval(values, 0.8, 200, 7, weights)
    for i in range(3):
        result = (float(low[i]), float(high[i]))
        assert result == pytest.approx(naive_bootstrap(values[i].tolist(), sizes or [1] * 5, 0.8, 200, 7), abs=1e-12)


def test_the_bootstrap_agrees_with_scipy():
    scores = gathered(effects(30))
    low, high = (end[GRAPH.edge_mask] for end in scores.interval(0.9, resamples=4000))
    for edge in (0, 1, 5, 10):
        sample = scores.per_prompt[:, edge].double().numpy()
        if edge == 0:
            assert (float(low[edge]), float(high[edge])) == (0, 0)
            continue
        theirs = stats.bootstrap(
            (sample,), lambda x, axis: x.mean(axis), confidence_level=0.9, n_resamples=4000, method="percentile", rng=1
        ).confidence_interval
        error = 0.1 * float(sample.std() / 30**0.5)  # 4000 resamples know these ends to about 3% of a standard error
        assert float(low[edge]) == pytest.approx(theirs.low, abs=error)
        assert float(high[edge]) == pytest.approx(theirs.high, abs=error)


def test_students_interval_is_scipys():
    dense = effects()
    low, high = gathered(dense).interval(0.99, kind="t")
    for w, r in [(0, 1), (3, 8), (5, 16)]:
        test = stats.ttest_1samp(dense[:, w, r].numpy(), 0)
        theirs = test.confidence_interval(0.99)
        assert (float(low[w, r]), float(high[w, r])) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert not bool(low[~GRAPH.edge_mask].any())


def test_p_values_are_scipys():
    dense = effects()[:, GRAPH.edge_mask]
    mean, stderr = dense.mean(0), dense.std(0) / 12**0.5
    theirs = stats.ttest_1samp(dense[:, 1:].numpy(), 0).pvalue
    torch.testing.assert_close(t_p_values(mean, stderr, 12)[1:], torch.from_numpy(theirs), rtol=1e-9, atol=0)
    same = torch.tensor([0.0, 2.0], dtype=torch.float64)
    assert t_p_values(same, torch.zeros(2, dtype=torch.float64), 5).tolist() == [1, 0]
    low, high = t_interval(mean, stderr, 12, 0.9)
    assert torch.equal(t_p_values(mean, stderr, 12) < 0.1, (low > 0) | (high < 0))


@pytest.mark.parametrize("kind", ["bootstrap", "t"])
def test_a_single_prompt_has_no_interval(kind):
    for end in gathered(effects(1)).interval(kind=kind):
        assert bool(end[GRAPH.edge_mask].isnan().all())


def test_impossible_intervals_are_refused():
    scores = gathered(effects())
    for wrong in ({"kind": "normal"}, {"level": 1.0}, {"level": 0.0, "kind": "t"}, {"resamples": 0}):
        with pytest.raises(InputError):
            scores.interval(**wrong)
    with pytest.raises(InputError, match="kind='t'"):
        example().interval()


# --- significance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bootstrap", "t"])
def test_significant_edges_are_those_whose_interval_excludes_zero(kind):
    scores = gathered(effects(), positions=("IO", "S1"))
    low, high = scores.interval(0.99, kind)
    expected = {
        edge for edge in scores.graph.edges
        if low[GRAPH.edge_index(edge)] > 0 or high[GRAPH.edge_index(edge)] < 0
    }  # fmt: skip
    result = scores.significant(0.99, kind)
    assert 10 < len(expected) < 50
    assert set(result.to_dict()) == expected
    assert len(result) == len(result.strongest(1000)) == len(expected)
    for edge in scores.graph.edges:
        assert result[edge] == (scores[edge] if edge in expected else 0)
    dropped = ~result.kept
    assert not bool(result.by_position[dropped].any() | result.per_prompt[:, dropped[GRAPH.edge_mask]].any())
    assert not bool(result.stderr[dropped].any())
    note = result.provenance["significance"]
    assert (note["level"], note["kind"], note["kept"]) == (0.99, kind, len(expected))
    assert result.significant(0.99, kind).to_dict() == result.to_dict()
    assert not bool(result.significant(1 - 1e-9, "t").kept[dropped].any())


@pytest.mark.parametrize("rule", ["top", "greedy", "positive-share", "optimal"])
def test_what_is_not_significant_is_never_selected(rule):
    scores = gathered(effects())
    result = scores.significant(0.9)
    circuit = result.select(scores.graph.n_edges, rule)
    assert 0 < len(circuit) <= len(result) < scores.graph.n_edges
    assert set(circuit.edges) <= set(result.to_dict())
    assert set(result.threshold(0.0).edges) <= set(result.to_dict())
    assert circuit.provenance["significance"]["kept"] == len(result)


def test_corrections_for_many_tests():
    scores, edges = gathered(effects()), GRAPH.n_edges
    p = t_p_values(scores.values[GRAPH.edge_mask], scores.stderr[GRAPH.edge_mask], 12)
    kept = {c: scores.significant(0.95, "t", c).kept[GRAPH.edge_mask] for c in ("none", "bonferroni", "bh")}
    assert torch.equal(kept["none"], p < 0.05)
    assert torch.equal(kept["bonferroni"], p < 0.05 / edges)
    # Benjamini and Hochberg: the largest k such that the k-th smallest p is at most k/m of the rate.
    passing = [k for k, value in enumerate(sorted(p.tolist()), 1) if value < k / edges * 0.05]
    assert int(kept["bh"].sum()) == max(passing)
    assert len(kept["none"]) > int(kept["none"].sum()) > int(kept["bh"].sum()) > int(kept["bonferroni"].sum()) > 0


def test_without_any_effect_no_edge_is_significant():
    scores = gathered(torch.zeros(4, *GRAPH.edge_mask.shape, dtype=torch.float64))
    for kind in ("bootstrap", "t"):
        result = scores.significant(0.5, kind)
        assert len(result) == 0
        assert result.to_dict() == {}
        assert result.strongest() == []
        assert len(result.top(10)) == len(result.optimal(10)) == len(result.greedy(10, fill=True)) == 0


def test_impossible_tests_are_refused():
    with pytest.raises(InputError, match="at least two prompts"):
        gathered(effects(1)).significant()
    scores = gathered(effects())
    with pytest.raises(InputError, match="kind='t'"):
        scores.significant(correction="bh")
    for wrong in ({"correction": "holm"}, {"kind": "z"}, {"level": 2.0}, {"level": -1.0, "kind": "t"}):
        with pytest.raises(InputError):
            scores.significant(**wrong)


# --- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [None, ("IO", "S1")])
@pytest.mark.parametrize("significant", [False, True])
@pytest.mark.parametrize("room", [4, 100])
def test_files_round_trip_exactly(tmp_path, positions, significant, room):
    scores = gathered(effects(), limit=room * 4 * GRAPH.n_edges, positions=positions)
    scores = scores.significant() if significant else scores
    scores.save(tmp_path / "s.safetensors")
    back = EdgeScores.load(tmp_path / "s.safetensors")
    assert (back.graph, back.n_prompts, back.positions, back.group) == (GRAPH, 12, positions, scores.group)
    assert (scores.group > 1) == (room == 4)
    assert dict(back.provenance) == dict(scores.provenance)
    for name in TENSORS:
        ours, theirs = getattr(scores, name), getattr(back, name)
        assert theirs is None if ours is None else (ours.dtype == theirs.dtype and torch.equal(ours, theirs)), name
    assert back.to_dict() == scores.to_dict()
    assert back.top(20, fill=True) == scores.top(20, fill=True)
    assert all(torch.equal(a, b) for a, b in zip(scores.interval(), back.interval(), strict=True))


def test_scores_without_effects_per_prompt_have_files(tmp_path):
    example().save(tmp_path / "s")
    back = EdgeScores.load(tmp_path / "s")
    assert (back.per_prompt, back.kept, back.positions) == (None, None, None)
    assert torch.equal(back.values, example().values)


HEADER = {"graph": json.dumps(GRAPH.to_dict()), "provenance": '{"method": "eap"}', "n_prompts": "3"}
OLD = {"schema": "mech-circuits edge scores 1", **HEADER}
NEW = {"schema": "mech-circuits edge scores 2", **HEADER, "positions": "null", "group": "1"}
DENSE = torch.zeros(GRAPH.edge_mask.shape, dtype=torch.float64)


def test_files_of_the_first_version_still_load(tmp_path):
    save_file({"values": example().values, "stderr": example().stderr}, tmp_path / "s", metadata=OLD)
    back = EdgeScores.load(tmp_path / "s")
    assert (back.n_prompts, back.provenance["method"], back.positions, back.per_prompt) == (3, "eap", None, None)
    assert torch.equal(back.values, example().values)
    assert len(back.interval(kind="t")) == 2


@pytest.mark.parametrize(
    ("header", "tensors", "message"),
    [
        (OLD, {"values": torch.zeros(2, 2).double()}, "does not fit"),
        (OLD, {"values": DENSE.float()}, "does not fit"),
        (OLD | {"graph": "[" * 10_000}, {}, "not a file of edge scores"),
        (OLD | {"n_prompts": "0"}, {}, "n_prompts must be between 1"),
        (OLD | {"n_prompts": "many"}, {}, "not a file of edge scores"),
        (OLD | {"schema": "mech-circuits edge scores 3"}, {}, "expected 'mech-circuits edge scores 2'"),
        (NEW | {"group": "0"}, {}, "group must be between 1"),
        (NEW | {"positions": '["IO"]'}, {}, "come together"),
        (NEW, {"by_position": torch.zeros(*DENSE.shape, 1).double()}, "by_position has shape|come together"),
        (
            NEW | {"positions": '["IO"]'},
            {"by_position": torch.zeros(*DENSE.shape, 2).double()},
            "by_position has shape",
        ),
        (NEW | {"positions": "3"}, {}, "positions must be a list of names"),
        (NEW, {"per_prompt": torch.zeros(2, GRAPH.n_edges)}, "per_prompt has shape"),
        (NEW, {"per_prompt": torch.zeros(3, GRAPH.n_edges).double()}, "per_prompt is torch.float64"),
        (NEW, {"kept": DENSE.clone()}, "kept is torch.float64"),
        (NEW, {"kept": torch.ones(3, dtype=torch.bool)}, "kept"),
    ],
)
def test_hostile_files_are_refused_by_name(tmp_path, header, tensors, message):
    save_file({"values": DENSE, "stderr": DENSE.clone()} | tensors, tmp_path / "s", metadata=header)
    with pytest.raises(InputError, match=message) as caught:
        EdgeScores.load(tmp_path / "s")
    assert str(tmp_path / "s") in str(caught.value)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(InputError, match="cannot read"):
        EdgeScores.load(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="not a file of edge scores"):
        EdgeScores.load(path)
    save_file({"values": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="schema"):
        EdgeScores.load(path)
    for missing in ("graph", "provenance", "n_prompts", "positions", "group"):
        header = {name: text for name, text in NEW.items() if name != missing}
        save_file({"values": DENSE, "stderr": DENSE.clone()}, path, metadata=header)
        with pytest.raises(InputError, match="not a file of edge scores"):
            EdgeScores.load(path)
    save_file({"values": DENSE}, path, metadata=NEW)
    with pytest.raises(InputError, match="not a file of edge scores"):
        EdgeScores.load(path)
