"""`circuits inspect`: its tables are those of the public functions."""

import json

import pytest

import circuits
from circuits.cli.inspect import VIEWS
from tests.command import CASE, GOLDEN, command, write_pairs

GIVEN = {
    "direct": ["--positions", "each"],
    "attention": ["--nodes", "a0.h0,a1.h1"],
    "ov": ["--nodes", "heads"],
    "terms": ["--nodes", "a1.h0", "--key", "0"],
    "neurons": ["--nodes", "m1"],
    "self-repair": ["--nodes", "a0.h0"],
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    pairs = write_pairs(json.loads((GOLDEN / CASE / "case.json").read_text()), tmp_path_factory.mktemp("x") / "p.jsonl")
    return [pairs, "--model", GOLDEN / CASE / "model", "--dtype", "float64", "--n", "4"]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_prints_its_rows(view, asked, capsys):
    command("inspect", view, *asked, *GIVEN.get(view, []), "--top", "3")
    shown = capsys.readouterr().out
    command("inspect", view, *asked, *GIVEN.get(view, []), "--json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows
    first = next(iter(rows[0]))
    assert first in shown
    assert sum(str(row[first]) in shown for row in rows) >= min(3, len({row[first] for row in rows}))


def test_direct_effects_are_those_of_the_function(asked, capsys):
    command("inspect", "direct", *asked, "--json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    model = circuits.load_model(str(GOLDEN / CASE / "model"), dtype="float64")
    pairs = circuits.PromptPairs.from_file(asked[0], model)[:4]
    effects = circuits.direct_effects(model, pairs)
    assert {row["node"]: row["effect"] for row in rows} == pytest.approx(effects.to_dict())


def test_options_of_other_views_are_refused(asked, capsys):
    command("inspect", "lens", *asked, "--nodes", "a0.h0", code=2)
    assert (
        "--nodes is not for this evidence (what the model would predict after each layer), which takes none of these options"
        in capsys.readouterr().err
    )
    command("inspect", "terms", *asked, "--nodes", "a1.h0", code=2)
    assert "query_key_terms needs --key" in capsys.readouterr().err


def test_one_kind_of_heads_alone(asked, capsys):
    command("inspect", "kinds", *asked, "--kind", "induction", "--json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["kind"] for row in rows} == {"induction"}
    command("inspect", "kinds", *asked, "--kind", "conductor", code=2)
    assert "there is no kind 'conductor' here (one of " in capsys.readouterr().err
