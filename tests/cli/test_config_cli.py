"""Options from a file, output for machines, versions."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.cli.config import config_text
from tests.command import GOLDEN, run, write_pairs

CASE = "acdc_2l2h_kl"


@pytest.fixture
def base(tmp_path):
    case = json.loads((GOLDEN / CASE / "case.json").read_text())
    pairs = write_pairs(case, tmp_path / "PAIRS.jsonl")
    return {
        "target": str(pairs), "model": str(GOLDEN / CASE / "model"), "dtype": "float64", "method": "eap", "edges": 12,
        "random-circuits": 0, "metric": "logit_difference",
    }  # fmt: skip


def written(tmp_path, options):
    path = tmp_path / "config.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items()))
    return str(path)


def test_a_file_gives_options_and_a_run_can_be_repeated_from_its_own(monkeypatch, tmp_path, base, capsys):
    config = written(tmp_path, base)
    assert run(monkeypatch, ["discover", "--config", config, "--out", str(tmp_path / "one"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["edges_in_graph"] > record["edges"]
    kept = tmp_path / "one" / "config.toml"
    own = tomllib.loads(kept.read_text())
    assert own["random-circuits"] == 0
    assert own["edges"] == 12
    assert "out" not in own
    assert run(monkeypatch, ["discover", "--config", str(kept), "--out", str(tmp_path / "two")]) == 0
    one, two = (json.loads((tmp_path / name / "run.json").read_text())["summary"] for name in ("one", "two"))
    assert one == two


def test_what_is_typed_goes_before_what_the_file_says(monkeypatch, tmp_path, base):
    config = written(tmp_path, base)
    given = ["discover", "--config", config, "--edges", "7", "--out", str(tmp_path / "one")]
    assert run(monkeypatch, given) == 0
    assert json.loads((tmp_path / "one" / "run.json").read_text())["options"]["edges"] == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edgs = 3", "did you mean edges?"),
        ("edges = [3]", "edges is list"),
        ("edges = ", "is not TOML"),
        ("config = 'x'", "there is no option 'config'"),
        ("edges = 'many'", "unable to parse string as an integer"),
    ],
)
def test_files_that_cannot_be_used_are_refused(monkeypatch, tmp_path, base, capsys, text, message):
    path = tmp_path / "c.toml"
    path.write_text(text)
    assert run(monkeypatch, ["discover", base["target"], "--config", str(path), "--out", str(tmp_path / "o")]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "o").exists()


def test_a_missing_file_is_told(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, ["discover", "ioi", "--config", str(tmp_path / "none.toml")]) == 2
    assert "cannot read" in capsys.readouterr().err


@given(
    st.dictionaries(
        st.sampled_from(["a", "b_c", "d"]),
        st.one_of(st.text(), st.booleans(), st.integers(), st.floats(allow_nan=False)),
    )
)
def test_any_options_are_toml_that_reads_back(options):
    back = tomllib.loads(config_text(options))
    assert back == {name.replace("_", "-"): value for name, value in options.items()}


def test_versions_are_printed(monkeypatch, capsys):
    assert run(monkeypatch, ["--version"]) == 0
    assert "transformer-lens" in capsys.readouterr().out
