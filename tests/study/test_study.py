"""A study computes what is missing and nothing twice, and whatever goes wrong costs its own run only."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from statistics import mean, stdev

import pyarrow.parquet
import pytest

from circuits.errors import DamageWarning, InputError
from circuits.measure import divided
from circuits.methods.catalogue import DECLARED
from circuits.methods.options import Kind
from circuits.study import StudyDirectory, parse_study, perform, read_study, run_study, status, table, write_table
from circuits.study.report import write_report
from circuits.study.table import columns
from tests.study.small import TEXT, write_small_study

SMALL = """
models = ["compiled/or-gate"]
tasks = ["compiled/or-gate", "compiled/and-gate"]
n = 4
[methods.eap]
[methods.eap-ig]
steps = 2
[evaluation]
parts = ["faithfulness", "curves"]
ablations = ["interchange", "zero"]
random_circuits = 2
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    out = StudyDirectory.begin(path / "out")
    outcome = run_study(parse_study(SMALL), out)
    assert outcome.made == 4
    assert outcome.states == {"done": 4}
    return out


def test_the_same_study_again_computes_nothing(finished, monkeypatch):
    monkeypatch.setattr(perform, "discover", None)
    monkeypatch.setattr(divided, "load_model", None)
    outcome = run_study(parse_study(SMALL), finished)
    assert outcome.made == 0
    assert outcome.states == {"done": 4}


@pytest.mark.parametrize(
    ("old", "new", "made"),
    [
        ("steps = 2", "steps = 3", 2),  # another option: the runs of that method alone
        ("n = 4", "n = 3", 4),
        ("n = 4", "n = 4\nseeds = [0, 7]", 4),
        ("random_circuits = 2", "random_circuits = 1", 4),  # the evaluations alone; see the next test
        ("[methods.eap]", "[methods.other-name]\nmethod = 'eap'", 0),  # a label is no option
        ("n = 4", "n = 4\nthreads = 2", 4),
        ("n = 4", "n = 4\nmetrics = ['probability', 'logit_difference']", 4),  # the task prefers the second
    ],
)
def test_a_changed_option_is_a_new_run(finished, old, new, made):
    before = {path.name for path in (finished.path / "runs").iterdir()}
    changed = parse_study(SMALL.replace(old, new))
    missing = [entry for entry in _after_identifying(changed, finished) if entry.state == "missing"]
    assert len(missing) == made
    assert {path.name for path in (finished.path / "runs").iterdir()} == before


def _after_identifying(study, out):
    from circuits.progress import silent
    from circuits.study.run import _identify

    _identify(study.requests, out, None, silent)
    return status(study, out)


def test_another_evaluation_leaves_the_runs(finished, monkeypatch):
    monkeypatch.setattr(perform, "discover", None)
    changed = parse_study(SMALL.replace('"faithfulness", "curves"', '"curves"'))
    outcome = run_study(changed, finished)
    assert outcome.made == 4
    assert len(list((finished.path / "runs").iterdir())) == 4


def test_changed_prompts_are_a_new_run(tmp_path):
    methods = TEXT[TEXT.index("[methods.eap-ig]") : TEXT.index("[evaluation]")]
    study = write_small_study(tmp_path, TEXT.replace(methods, "").replace("seeds = [0, 1]", "seeds = [0]"))
    out = StudyDirectory.begin(tmp_path / "out")
    assert run_study(study, out).made == 6
    path = tmp_path / "short.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[1] + lines[0] + "".join(lines[2:]))
    assert run_study(read_study(tmp_path / "study.toml"), out).made == 2


def test_rows_of_the_table_are_those_of_runs_and_evaluations(finished):
    study = parse_study(SMALL)
    rows = table(study, finished)
    assert [row["method"] for row in rows] == ["eap", "eap-ig"] * 2
    assert all(set(row) == set(columns(rows)) for row in rows)
    for row in rows:
        summary = json.loads((finished.run_path(row["address"]) / "run.json").read_text())["summary"]
        result = finished.evaluation(status(study, finished)[rows.index(row)].evaluation)
        assert row["faithfulness"] == summary["faithfulness"]
        assert row["strongest"] == summary["strongest"][0]["edge"]
        assert row["cpr"] == result["curves"]["cpr"]
        for ablation, measured in result["faithfulness"].items():
            assert row[f"evaluated_faithfulness_{ablation}"] == measured["ratio_of_means"]
            assert row[f"evaluated_random_faithfulness_{ablation}"] == measured["random_faithfulness"]
            assert row[f"p_{ablation}"] == measured["p"]
        assert row["evaluated_faithfulness_interchange"] == pytest.approx(row["faithfulness"])


def test_a_table_is_written_as_parquet_or_csv(finished, tmp_path):
    rows = table(parse_study(SMALL), finished)
    write_table(rows, tmp_path / "t.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist() == rows
    write_table(rows, tmp_path / "t.csv")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        write_table(rows, tmp_path / "t.xlsx")


def test_a_report_tells_all(finished):
    run_study(parse_study(SMALL), finished)  # other tests put other studies there
    write_report(finished, finished.path / "report.html")
    page = (finished.path / "report.html").read_text()
    for result in ("4 runs: 4 done", "compiled/or-gate in compiled/or-gate", "CPR", "eap-ig", "All runs"):
        assert result in page
    for ablation in ("interchange", "zero"):
        assert f"Evaluated faithfulness, {ablation} ablation" in page
        assert f"under {ablation} ablation, on the pairs that they were found on" in page
    assert "over seeds" not in page  # there is one


def test_a_report_tells_other_pairs(tmp_path):
    text = SMALL.replace('"compiled/and-gate"', "") + "fresh = 3\n"
    out = StudyDirectory.begin(tmp_path / "out")
    assert run_study(parse_study(text), out).states == {"done": 2}
    write_report(out, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "under zero ablation, on 3 new pairs of each task" in page
    assert "by signed score; higher is better. Measured on 3 new pairs of each task." in page


def test_a_report_tells_the_same_pairs(tmp_path):
    """Of a file the first pairs are taken, whatever the seed: what does not draw has no spread, also when the file is gone."""
    text = TEXT[: TEXT.index("[methods.eap-ig]")].replace(', "changed.jsonl", "short.jsonl"', "")
    pruning = "[methods.edge-pruning]\nedges = 20\nsteps = 2\n[methods.atp-star]\n"
    study = write_small_study(tmp_path, text.replace('"compiled/induction", ', "") + pruning)
    out = StudyDirectory.begin(tmp_path / "out")
    assert run_study(study, out).states == {"done": 6}
    (tmp_path / "repeat.jsonl").unlink()
    write_report(out, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "All seeds have the same pairs" in page
    assert "Seeds change the pairs" not in page
    assert "atp-star gives no circuit." in page
    eap, pruned = (
        [row["faithfulness"] for row in table(study, out) if row["method"] == method]
        for method in ("eap", "edge-pruning")
    )
    assert eap[0] == eap[1]
    assert pruned[0] != pruned[1]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert cells[1:3] == [f"{eap[0]:.3g}", f"{mean(pruned):.3g} ± {stdev(pruned):.2g}"]


def test_a_report_tells_which_seeds_have_the_same_pairs(tmp_path):
    text = TEXT[: TEXT.index("[methods.eap-ig]")].replace('"changed.jsonl", "short.jsonl"', '"compiled/induction"')
    study = write_small_study(tmp_path, text.replace(', "trained/induction"', ""))
    out = StudyDirectory.begin(tmp_path / "out")
    assert run_study(study, out).states == {"done": 4}
    write_report(out, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Seeds change the pairs of a task and the random numbers of a method" in page
    assert "of repeat.jsonl they change the random numbers only" in page


def test_a_report_compares_seeds(tmp_path):
    text = """
    models = ["compiled/or-gate"]
    tasks = ["compiled/or-gate"]
    n = 4
    seeds = [0, 1, 2]
    [methods.eap]
    edges = 5
    [methods.atp-star]
    """
    out = StudyDirectory.begin(tmp_path / "out")
    assert run_study(parse_study(text), out).states == {"done": 6}
    write_report(out, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for result in ("Agreement between seeds", "circuits", " strongest nodes", "Seeds change the pairs of a task"):
        assert result in page


def test_what_cannot_be_asked_fails_alone(tmp_path):
    study = parse_study(SMALL.replace('"compiled/and-gate"', '"compiled/sort"'))
    out = StudyDirectory.begin(tmp_path)
    outcome = run_study(study, out)
    assert outcome.states == {"done": 2, "failed": 2}
    reasons = {entry.reason for entry in outcome.entries if entry.state == "failed"}
    assert len(reasons) == 1
    assert "compiled/sort is made of the token ids" in reasons.pop()
    assert [row["state"] for row in table(study, out)] == ["done", "done", "failed", "failed"]
    write_report(out, tmp_path / "report.html")


def test_a_bug_in_one_run_is_told_and_tried_again(tmp_path, monkeypatch):
    study, out = parse_study(SMALL), StudyDirectory.begin(tmp_path)
    real = perform.discover

    def broken(model, pairs, *, method, **options):
        if method == "eap":
            raise ZeroDivisionError("no\n  such thing")
        return real(model, pairs, method=method, **options)

    monkeypatch.setattr(perform, "discover", broken)
    outcome = run_study(study, out)
    assert outcome.states == {"done": 2, "failed": 2}
    assert next(e.reason for e in outcome.entries if e.state == "failed") == "a bug: ZeroDivisionError: no such thing"
    trace = json.loads(next((tmp_path / "failures").iterdir()).read_text())["trace"]
    assert "broken" in trace
    monkeypatch.setattr(perform, "discover", real)
    outcome = run_study(study, out)
    assert outcome.made == 2
    assert outcome.states == {"done": 4}
    assert not list((tmp_path / "failures").iterdir())


def test_two_studies_at_once(tmp_path):
    out = StudyDirectory.begin(tmp_path)
    result = f"another process is writing .*process {os.getpid()}"
    with out.locked(), ThreadPoolExecutor() as other, pytest.raises(InputError, match=result):
        other.submit(run_study, parse_study(SMALL), StudyDirectory.begin(tmp_path)).result()


def test_directories_that_are_no_study(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a study's directory"):
        StudyDirectory.begin(tmp_path)
    with pytest.raises(InputError, match="not a study's directory"):
        StudyDirectory.open(tmp_path)


def test_damage_is_found(finished):
    study = parse_study(SMALL)
    run_study(study, finished)
    entry = status(study, finished)[0]
    path = finished.run_path(entry.address)
    whole = (path / "run.json").read_text()
    for damage in (whole[: len(whole) // 2], '{"provenance": {}}', None):
        (path / "run.json").unlink() if damage is None else (path / "run.json").write_text(damage)
        result = (
            nullcontext()
            if damage is None
            else pytest.warns(DamageWarning, match=r"run\.json was cut short or altered")
        )
        with result:
            assert status(study, finished)[0].state == "missing"
            assert run_study(study, finished).states == {"done": 4}
    (finished.path / "known.json").write_text("{")
    with pytest.warns(DamageWarning, match=r"known\.json"):
        assert run_study(study, StudyDirectory.open(finished.path)).made == 0


def test_an_altered_file_counts_as_missing_and_is_told(finished):
    """Each is made again; an evaluation's numbers are never taken from a file that is not as it was written."""
    study = parse_study(SMALL)
    run_study(study, finished)
    wanted = table(study, finished)
    entry = status(study, finished)[0]
    evaluation, known = finished.path / "evaluations" / f"{entry.evaluation}.json", finished.path / "known.json"
    record = json.loads(evaluation.read_text())
    record["curves"]["cpr"] += 1
    identities = json.loads(known.read_text())
    identities[next(key for key in identities if key != "sha256")]["pairs"] = "0" * 64
    for path, harmed in (
        (evaluation, json.dumps(record)),
        (evaluation, evaluation.read_text()[:-9]),
        (known, json.dumps(identities)),
        (known, ""),
    ):
        path.write_text(harmed)
        with pytest.warns(DamageWarning, match=rf"{path.name} was cut short or altered: it counts as missing"):
            assert status(study, StudyDirectory.open(finished.path))[0].state == "missing"
        with pytest.warns(DamageWarning, match=path.name):
            assert run_study(study, StudyDirectory.open(finished.path)).states == {"done": 4}
        assert table(study, StudyDirectory.open(finished.path)) == wanted


@pytest.mark.parametrize("name", ["scores.safetensors", "circuit.json"])
def test_a_finished_run_with_an_altered_file_is_missing_and_made_again(name, finished):
    study = parse_study(SMALL)
    run_study(study, finished)
    before = table(study, finished)
    file = finished.run_path(before[0]["address"]) / name
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    for harmed in (bytes(raw), bytes(raw[:-1])):
        file.write_bytes(harmed)
        result = rf"{name} was cut short or altered: it counts as missing"
        with pytest.warns(DamageWarning, match=result):
            assert [entry.state for entry in status(study, finished)] == ["missing", "done", "done", "done"]
        with pytest.warns(DamageWarning, match=result):
            rows = table(study, finished)
        assert rows[0]["state"] == "missing"
        assert rows[0]["faithfulness"] is None
        assert rows[1:] == before[1:]
        with pytest.warns(DamageWarning, match=result):
            assert run_study(study, finished).made == 1
        assert table(study, finished) == before


def test_an_evaluation_that_fails_keeps_the_run(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InputError("nothing to measure")

    monkeypatch.setattr(perform, "evaluate_run", refuse)
    out = StudyDirectory.begin(tmp_path / "out")
    outcome = run_study(parse_study(SMALL), out)
    assert outcome.states == {"failed": 4}
    assert outcome.entries[0].reason == "nothing to measure"
    assert len(list((out.path / "runs").iterdir())) == 4
    monkeypatch.undo()
    monkeypatch.setattr(perform, "discover", None)  # runs are not made again
    assert run_study(parse_study(SMALL), out).states == {"done": 4}


def test_what_a_finished_run_went_on_from_is_removed(finished):
    address = next(iter((finished.path / "runs").iterdir())).name
    for name in (address, "0" * 32):
        finished.store_path(name).mkdir()
        (finished.store_path(name) / "piece").touch()
    run_study(parse_study(SMALL), finished)
    assert not finished.store_path(address).exists()
    assert finished.store_path("0" * 32).exists()


def test_an_evaluation_depends_on_what_its_task_tells(monkeypatch):
    from circuits.study import address

    request = parse_study(SMALL).requests[0]
    before = address.evaluation_address(request, "run")
    assert address.evaluation_address(request, "run") == before
    monkeypatch.setattr(address, "task_state", lambda name: f"another {name}")
    assert address.evaluation_address(request, "run") != before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps = 2", "steps = -3", r"methods.eap-ig cannot be used: steps must be at least 1, not -3"),
        ("steps = 2", "threshold = nan", r"methods.eap-ig.threshold is a number; expected a finite number"),
        ("steps = 2", "threshold = true", r"threshold is true or false; expected a finite number"),
        ("steps = 2", f"steps = 1{'0' * 30}", r"methods.eap-ig.steps is too large a number"),
        ("steps = 2", f"threshold = -1{'0' * 400}", r"methods.eap-ig.threshold is too large a number"),
        ("steps = 2", "stpes = 2", r"methods.eap-ig cannot be used: .*no option 'stpes'.*; did you mean steps\?"),
        (
            'parts = ["faithfulness"',
            'parts = ["faithfullness"',
            r"evaluation.parts cannot be used: .*did you mean faithfulness",
        ),
        ("steps = 2", "share = 3.0", r"methods.eap-ig cannot be used: share must be from 0 to 1, not 3.0"),
        ("steps = 2", "refine-top = 0", r"methods.eap-ig cannot be used: refine-top must be at least 1, not 0"),
        (
            "[methods.eap]",
            "[methods.coar]\nsamples = 1",
            r"methods.coar cannot be used: samples must be at least 2, not 1",
        ),
        ("[methods.eap]", "[methods.activation-patching]\nwindow = 0", r"window must be at least 1, not 0"),
        (
            '["compiled/or-gate"]',
            '["compiled/or-gat"]',
            r"the study: models cannot be used: .*did you mean 'compiled/or-gate'",
        ),
        ('["compiled/or-gate"]', '["smollm2-135"]', r"models cannot be used: .*did you mean 'smollm2-135m'"),
        ("steps = 2", "steps = 0", r"methods.eap-ig cannot be used: steps must be at least 1, not 0"),
        ("steps = 2", 'quadrature = "middle"', r"quadrature must be one of left, midpoint, right, got 'middle'"),
        ("steps = 2", 'select = "best"', r"there is no selection rule 'best'"),
        ("steps = 2", 'by = "size"', r"edges are ranked by 'abs' or 'signed', not 'size'"),
        ("steps = 2", "threshold = 1.0\nedges = 3", r"a threshold cannot be combined with edges"),
        ("[methods.eap]", "[methods.coar]\nalpha = 1.0", r"methods.coar cannot be used: alpha must be between 0 and 1"),
        ("[methods.eap]", '[methods.acdc]\nedges = 3\norder = "ig"', r"order must be one of eap, eap-ig, got 'ig'"),
        ("steps = 2", "refine-top = 3", r"refine-top needs the option refine"),
        ("[methods.eap]", '[methods.coar]\nfit = "ridg"', r"fit must be one of .*did you mean ridge"),
        ("[methods.eap]", '[methods.edge-pruning]\nobjective = "kl"', r"methods.edge-pruning cannot be used: .*kl"),
        ("[methods.eap]", '[methods."a\\nb"]\nmethod = "eap"', r"must be names without line breaks"),
        ("n = 4", "n = 4\ndevice = 'gpu'", r"the study: device cannot be used: unknown device 'gpu'"),
        ('["interchange", "zero"]', '["nil"]', r"the study: evaluation.ablations cannot be used: .*nil"),
        ("n = 4", "n = 4\ndtype = 'float23'", r"the study: dtype cannot be used: unknown dtype 'float23'"),
        ("n = 4", "n = 4\nseeds = [-1]", r"the study: seeds must be a list of different whole numbers of at least 0"),
        ("n = 4", f"n = {2**63}", r"the study: n is too large a number"),
        ("n = 4", f"n = 0x{'f' * 5000}", r"the study: n is too large a number"),  # Python refuses to write it down
        (
            "n = 4",
            "n = 4\ndevice = 'cpu'\ndevice-map = 'auto'",
            r"device-map cannot be used: both device 'cpu' and a device_map",
        ),
        ("n = 4", "n = 4\ndevice-map = 'auto'", r"device-map cannot be used: .*compiled/or-gate is not; leave it out"),
        (
            'models = ["compiled/or-gate"]',
            'models = ["smollm2-135m"]\ndevice-map = "atuo"',
            r"device-map cannot be used: device_map names 'atuo', which is not a device",
        ),
        (
            "random_circuits = 2",
            "fresh = 0",
            r"the study: evaluation.fresh must be a whole number of at least 1, not 0",
        ),
        (
            "random_circuits = 2",
            "seed = -1",
            r"the study: evaluation.seed must be a whole number of at least 0, not -1",
        ),
        (
            "[methods.eap]",
            '[methods.atp-star]\nnodes = "hads+mlps"',
            r"methods.atp-star cannot be used: unknown group of nodes 'hads' .*did you mean heads",
        ),
        (
            "[methods.eap]",
            '[methods.path-patching]\nreceivers = ["logits"]\nsenders = "mlp"',
            r"unknown group of nodes 'mlp' .*did you mean mlps",
        ),
        (
            "[methods.eap]",
            "[methods.edge-pruning]\nlearning-rate = 0",
            r"methods.edge-pruning cannot be used: learning-rate must be above 0, not 0",
        ),
        (
            "[methods.eap]",
            '[methods.edge-pruning]\nobjective = "rank"',
            r"methods.edge-pruning cannot be used: objective must be one of logit_difference",
        ),
        ("n = 4", "n = 0", r"n must be a whole number of at least 1, not 0"),
        (
            '"compiled/and-gate"]',
            '"FILE"]\nmetrics = ["logit_difference"]',
            r"evaluation.fresh needs a task to draw from",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(old, new, words, tmp_path):
    (tmp_path / "file.jsonl").write_text('{"clean": [1, 2], "corrupted": [1, 3], "answers": [4]}\n')
    text = SMALL.replace(old, new.replace("FILE", "file.jsonl")) + ("fresh = 3\n" if "FILE" in new else "")
    with pytest.raises(InputError, match=words):
        parse_study(text, base=tmp_path)


def test_every_whole_number_has_limits():
    for method in DECLARED.values():
        for option in method.takes:
            assert option.kind is not Kind.WHOLE or option.at_least is not None, option


def test_a_threshold_may_be_negative_as_a_whole_number_too():
    asked = parse_study(SMALL.replace("steps = 2", "threshold = -1")).requests
    assert {request.options.get("threshold") for request in asked} == {None, -1.0}


def test_a_map_of_another_machines_devices_is_left_to_that_machine():
    text = SMALL.replace('models = ["compiled/or-gate"]', 'models = ["smollm2-135m"]\ndevice-map = "cuda:31"')
    assert {request.device_map for request in parse_study(text).requests} == {"cuda:31"}


@pytest.mark.parametrize("name", ["../x", "no/such/model/at-all", "a" * 5000])
def test_one_bad_model_leaves_the_others(name, tmp_path):
    study = parse_study(SMALL.replace('["compiled/or-gate"]', f'["{name}", "compiled/or-gate"]', 1))
    outcome = run_study(study, StudyDirectory.begin(tmp_path))
    assert outcome.states == {"done": 4, "failed": 4}


def test_other_configurations_and_preferred_metrics_are_other_runs(monkeypatch):
    from circuits.study.address import identity_of
    from tests.tiny_models import random_pairs, tiny

    model, pairs = tiny("gpt2"), random_pairs()
    identity = identity_of(model, pairs)
    assert identity_of(model, random_pairs()) == identity
    monkeypatch.setattr(model.bridge.original_model.config, "layer_norm_epsilon", 0.5)
    assert identity_of(model, pairs).model != identity.model
    assert identity_of(model, replace(pairs, metric="probability")) != identity


def test_a_table_needs_no_prompts_and_a_half_begun_directory_is_taken(tmp_path):
    text = TEXT[: TEXT.index("[methods.acdc]")] + TEXT[TEXT.index("[evaluation]") :]
    study = write_small_study(tmp_path, text.replace("[0, 1]", "[0]"))
    (tmp_path / "out").mkdir()
    out = StudyDirectory.begin(tmp_path / "out")
    assert run_study(study, out).states == {"done": 12}
    rows = table(study, out)
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    opened = StudyDirectory.open(tmp_path / "out")
    assert table(opened.study(), opened) == rows


def test_other_weights_under_the_same_name_are_another_run():
    from circuits.study.address import Identity, run_address

    request = parse_study(SMALL).requests[0]
    identities = [Identity(*name) for name in ("apvm", "bpvm", "aqvm", "apwm", "apvn")]
    assert len({run_address(request, identity) for identity in identities}) == 5


def test_a_default_that_is_written_down_is_the_same_run(finished):
    result = SMALL.replace(
        "n = 4", 'n = 4\nmetrics = ["logit_difference"]\nablations = ["interchange"]\ndtype = "float64"', 1
    )
    result = result.replace("[methods.eap]", "[methods.eap]\nrandom-circuits = 5\nfill = false") + "seed = 1\n"
    run_study(parse_study(SMALL), finished)
    assert {entry.state for entry in _after_identifying(parse_study(result), finished)} == {"done"}


def test_a_file_among_options_is_beside_the_study_and_counts_by_what_it_holds(tmp_path, monkeypatch):
    text = SMALL[: SMALL.index("[methods")].replace(', "compiled/and-gate"', "")
    out = StudyDirectory.begin(tmp_path / "eap")
    run_study(parse_study(text + "[methods.eap]\nedges = 30\n[methods.other]\nmethod = 'eap'\nedges = 50\n"), out)
    few, many = ((run / "circuit.json").read_bytes() for run in sorted((out.path / "runs").iterdir()))
    (tmp_path / "study.toml").write_text(text + '[methods.acdc]\nthreshold = 0.1\nstart-circuit = "start.json"\n')
    with pytest.raises(InputError, match=r"methods.acdc.start-circuit names no file: .*start.json"):
        read_study(tmp_path / "study.toml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    out = StudyDirectory.begin(tmp_path / "out")
    for contents, made in ((few, 1), (few, 0), (many, 1), (few, 0)):
        (tmp_path / "start.json").write_bytes(contents)
        outcome = run_study(read_study(tmp_path / "study.toml"), out)
        assert outcome.states == {"done": 1}
        assert outcome.made == made


@pytest.mark.parametrize(("kept", "loads"), [(2**31, 2), (0, 3)])
def test_models_are_loaded_once_where_both_have_room(kept, loads, tmp_path, monkeypatch):
    loaded, real = [], divided.load_model

    def counting(name, **how):
        loaded.append(name)
        return real(name, **how)

    monkeypatch.setattr(divided, "load_model", counting)
    monkeypatch.setattr(divided, "_kept", {})
    monkeypatch.setattr(divided, "KEPT_BYTES", kept)
    text = TEXT[: TEXT.index("[methods.eap-ig]")].replace("[0, 1]", "[0]")
    assert run_study(write_small_study(tmp_path, text), StudyDirectory.begin(tmp_path / "out")).states == {"done": 6}
    assert len(loaded) == loads


@pytest.mark.parametrize("name", ["ünï ☃ ", "bad\udcff"])
def test_the_study_file_may_be_anywhere(name, tmp_path):
    (tmp_path / name).mkdir()
    study = write_small_study(tmp_path / name, TEXT[: TEXT.index("[methods.eap-ig]")])
    out = StudyDirectory.begin(tmp_path / "out")
    if name.isprintable():
        out.keep_study(study)
        assert out.study().base == tmp_path / name
    else:
        with pytest.raises(InputError, match="a name that is not UTF-8"):
            out.keep_study(study)


def test_labels_are_text_in_tables_and_pages(tmp_path):
    label = "=1+<img src=x onerror=alert(1)>"
    text = f'models = ["compiled/or-gate"]\ntasks = ["compiled/or-gate"]\nn = 2\n[methods."{label}"]\nmethod = "eap"\n'
    out, study = StudyDirectory.begin(tmp_path), parse_study(text)
    out.keep_study(study)
    assert run_study(study, out).states == {"done": 1}
    write_table(table(study, out), tmp_path / "table.csv")
    assert f",'{label}," in (tmp_path / "table.csv").read_text()
    write_report(out, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
