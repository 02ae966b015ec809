import html

import pytest
import torch

from circuits import InputError
from circuits.plots import node_heatmap, position_heatmap, write_html
from circuits.results.node_scores import node_scores


def test_the_page_works_offline(tmp_path):
    write_html(node_heatmap(scores_of(HEADS)), tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "Plotly.newPlot" in page
    assert '<script src="http' not in page


HEADS = tuple(f"a{layer}.h{head}" for layer in range(3) for head in range(4))
MLPS = ("m0", "m1", "m2")
READS = tuple(f"a1.h{i}<q>" for i in range(4)) + tuple(f"a1.kv{i}<{part}>" for part in "kv" for i in range(2))
ROLES = ("IO", "S1", "end")


def scores_of(nodes, positions=None, n=5, corrupted=-1.0, **origin):
    shape = (len(nodes), *(() if positions is None else (len(positions),)), n)
    effects = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    origin = {
        "method": "activation_patching", "metric": "logit_difference", "ablation": "interchange",
        "options": {"direction": "denoising", "window": 1}, "model": "smollm2-135m", "task": "ioi",
    } | origin  # fmt: skip
    return node_scores(tuple(nodes), effects, origin, positions, torch.ones(n), torch.full((n,), corrupted))


def cells(figure):
    """Name -> (value, panel, row label, column label) of all cells that hold a number."""
    result = {}
    for number, trace in enumerate(figure.data, 1):
        end = "" if number == 1 else str(number)
        axes = figure.layout[f"xaxis{end}"], figure.layout[f"yaxis{end}"]
        labels = [dict(zip(axis.tickvals, map(html.unescape, axis.ticktext), strict=True)) for axis in axes]
        for y, row in enumerate(trace.z):
            for x, value in enumerate(row):
                if value is not None:
                    name = html.unescape(trace.text[y][x].split("<br>")[0])
                    result[name] = (value, number, labels[1].get(y), labels[0].get(x))
    return result


def test_a_heat_map_holds_every_node_in_its_place():
    scores = scores_of(("input", *HEADS, *MLPS))
    result = cells(node_heatmap(scores))
    assert {name: value for name, (value, *_) in result.items()} == scores.to_dict()
    assert result["a2.h3"][1:] == (1, "2", "h3")
    assert result["m1"][1:3] == (2, None)  # the second panel shares the first one's layers
    assert node_heatmap(scores).data[1].z[0][0] == scores["input"]  # below the first layer


def test_queries_keys_and_values_have_a_panel_each():
    figure = node_heatmap(scores_of(READS))
    result = cells(figure)
    assert set(result) == set(READS)
    assert [result[name][1] for name in ("a1.h0<q>", "a1.kv1<k>", "a1.kv1<v>")] == [1, 2, 3]
    assert result["a1.kv1<k>"][3] == "kv1"
    assert [figure.layout[axis].title.text for axis in ("xaxis", "xaxis2", "xaxis3")] == ["queries", "keys", "values"]


def test_neurons_and_nodes_patched_together_are_drawn_too():
    assert cells(node_heatmap(scores_of(("m0.n3", "m1.n1200"))))["m1.n1200"][2:] == ("1", "n1200")
    together = "+".join(HEADS)
    figure = node_heatmap(scores_of((together,)))
    assert list(cells(figure)) == [together]
    assert figure.layout.yaxis.ticktext == ("a0.h0 … a2.h3 (12)",)


def test_the_scale_is_symmetric_and_missing_cells_stay_blank():
    scores = scores_of(HEADS[:7])
    figure = node_heatmap(scores)
    axis = figure.layout.coloraxis
    assert -axis.cmin == axis.cmax == float(scores.values.abs().max())
    assert axis.colorscale[1] == (0.5, "#ffffff")
    assert figure.data[0].z[1][3] is None
    assert "grey: not measured" in figure.layout.title.subtitle.text
    assert "grey" not in node_heatmap(scores_of(HEADS)).layout.title.subtitle.text


def test_the_scale_of_sizes_begins_at_white():
    scores = scores_of(HEADS, method="atp_star", options={"signed": False})
    scores.per_prompt.abs_()
    axis = node_heatmap(scores).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (0, float(scores.values.max()))
    assert axis.colorscale[0] == (0.0, "#ffffff")
    assert len(axis.colorscale) == 2


def test_a_few_outliers_do_not_leave_the_rest_pale():
    scores = scores_of(HEADS)
    scores.per_prompt[3] = 100.0
    figure = node_heatmap(scores)
    others = [abs(value) for name, value in scores.to_dict().items() if name != "a0.h3"]
    assert figure.layout.coloraxis.cmax == max(others)
    assert figure.data[0].z[0][3] == 100
    assert "the largest effect is +100" in figure.layout.title.subtitle.text
    assert [note.text for note in figure.layout.annotations] == ["100"]


def test_numbers_that_are_none_are_blank_and_all_zero_is_white():
    scores = scores_of(HEADS)
    scores.per_prompt[0] = torch.nan
    assert node_heatmap(scores).data[0].z[0][0] is None
    scores.per_prompt[:] = 0
    assert node_heatmap(scores).layout.coloraxis.cmax == 1


def test_normalised_effects_are_shares_of_the_whole():
    scores = scores_of(HEADS)
    figure = node_heatmap(scores, normalised=True)
    assert cells(figure)["a0.h1"][0] == scores["a0.h1"] / 2
    assert "logits" not in figure.data[0].text[0][0]
    assert "clean − corrupted" in figure.layout.coloraxis.colorbar.title.text
    with pytest.raises(InputError, match="not defined"):
        node_heatmap(scores_of(HEADS, corrupted=1.0), normalised=True)


def test_a_heat_map_says_what_was_measured_and_how():
    options = {"direction": "noising", "window": 3}
    figure = node_heatmap(scores_of((*HEADS, *MLPS), options=options))
    assert figure.layout.title.text == "Activation patching (noising): ioi in smollm2-135m"
    for fact in ("logit difference", "interchange", "windows of 3 layers", "5 prompts"):
        assert fact in figure.layout.title.subtitle.text
    assert figure.layout.coloraxis.colorbar.title.text == "effect (logits)"
    assert "± " in figure.data[0].text[0][0]
    assert "±" not in node_heatmap(scores_of(HEADS, n=1)).data[0].text[0][0]
    options = {"receivers": ["a2.h1<q>", "m2", "logits", "m1"], "mlps": "live"}
    title = node_heatmap(scores_of(HEADS, method="path_patching", options=options)).layout.title.text
    assert html.unescape(title).startswith("Path patching into a2.h1<q>, m2, logits and 1 more (MLPs live)")


@pytest.mark.parametrize("tokens", [None, ["<|endoftext|>", " John", " John"]])
def test_positions_are_labelled_by_role_or_token(tokens):
    scores = scores_of((*HEADS, *MLPS), ROLES, options={"direction": "denoising", "window": 3})
    figure = position_heatmap(scores, tokens)
    result = cells(figure)
    assert set(result) == {f"{node} at {role}" for node in scores.nodes for role in ROLES}
    assert result["a2.h1 at S1"] == (scores["a2.h1"][1], 1, "a2.h1", " John" if tokens else "S1")
    assert result["m2 at end"][2] == "2"
    assert [note.text for note in figure.layout.annotations] == [
        "heads, windows of 3 layers", "MLPs, windows of 3 layers"
    ]  # fmt: skip
    # Written as it is, not read as a tag.
    assert figure.layout.xaxis.ticktext[0] == ("&lt;|endoftext|&gt;" if tokens else "IO")


def test_many_heads_are_labelled_by_layer():
    heads = [f"a{layer}.h{head}" for layer in range(10) for head in range(9)]
    figure = position_heatmap(scores_of(heads, ROLES))
    assert figure.layout.yaxis.ticktext == tuple(map(str, range(10)))
    assert len(cells(figure)) == 270
    assert len(figure.layout.shapes) == 9


def test_the_wrong_map_is_refused():
    with pytest.raises(InputError, match="position_heatmap"):
        node_heatmap(scores_of(HEADS, ROLES))
    with pytest.raises(InputError, match="node_heatmap"):
        position_heatmap(scores_of(HEADS))
    with pytest.raises(InputError, match="3 positions, but 2"):
        position_heatmap(scores_of(HEADS, ROLES), ["a", "b"])
