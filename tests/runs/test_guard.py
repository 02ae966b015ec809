"""The pytest plugin, tried in a pytest of its own: what passes, what fails, what is printed and updated."""

import json
import shutil

import pytest
import torch
import transformers

import circuits
from circuits.errors import InputError
from circuits.evaluation.intervals import share_interval
from circuits.runs.guard import check_model, update_run
from tests.command import GOLDEN_MODEL, discovered

pytest_plugins = ["pytester"]
PLUGIN = ("-p", "no:mech_circuits", "-p", "no:cacheprovider", "-p", "circuits.pytest_plugin")
"""The plugin by its module, whether or not the installed package declares it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and a model that lost what the circuit does."""
    place = tmp_path_factory.mktemp("guard")
    with pytest.MonkeyPatch.context() as patch:
        discovered(patch, place, "run", "eap", "--edges", 20, "--random-circuits", 0)
    broken = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN_MODEL)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    broken.save_pretrained(place / "broken")
    return place


def golden():
    return circuits.load_model(str(GOLDEN_MODEL), dtype="float64")


def guarded(pytester, made, model, asked, *options):
    shutil.copytree(made / "run", pytester.path / "run")
    pytester.makepyfile(
        f"""
        import circuits

        def test_guard(circuit_guard):
            circuit_guard("run", circuits.load_model({str(model)!r}, dtype="float64"), {asked})
        """
    )
    return pytester.runpytest_inprocess(*PLUGIN, *options)


def test_a_model_that_has_its_circuit_passes(pytester, made):
    edge = circuits.Circuit.from_json(made / "run" / "circuit.json").edges[0]
    result = guarded(pytester, made, GOLDEN_MODEL, f"overlap=1.0, edges=[{edge!r}]")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*circuit guard*",
            "circuit of *run in *: passed",
            "*faithfulness * [[]*, *[]] (recorded: *)*",
            "*overlap*1.000*",
        ]
    )


def test_a_model_that_lost_it_fails_and_says_why(pytester, made):
    result = guarded(pytester, made, made / "broken", "faithfulness=0.99, overlap=0.9")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*FAILED*",
            "*failed: faithfulness *its lower end must be at least 0.99*",
            "*failed: overlap *must be at least 0.9*",
        ]
    )


def test_update_replaces_the_run(pytester, made):
    result = guarded(pytester, made, made / "broken", "overlap=1.0", "--circuits-update")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["circuit of run: replaced by that of *"])
    record = json.loads((pytester.path / "run" / "run.json").read_text())
    assert (
        record["provenance"]["weights_sha256"]
        != json.loads((made / "run" / "run.json").read_text())["provenance"]["weights_sha256"]
    )
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=1)


def test_bad_input_is_one_line(pytester, made):
    result = guarded(pytester, made, GOLDEN_MODEL, "")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["circuit_guard: a guard needs something to hold*"])


def test_without_a_guard_nothing_is_printed_or_imported(pytester):
    pytester.makepyfile("def test_nothing():\n    import sys\n    assert 'torch' not in sys.modules")
    result = pytester.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(passed=1)
    assert "circuit guard" not in result.stdout.str()


def test_the_numbers_are_those_of_the_package(made):
    report = check_model(made / "run", golden(), faithfulness=0.0, overlap=0.0)
    faith = report.faithfulness
    assert faith.value == pytest.approx(report.before)
    low, high = share_interval(faith.circuit[None], faith.clean, faith.ablated, faith.rounding)
    assert (report.low, report.high) == (float(low), float(high))
    assert report.low < faith.value < report.high


def test_what_is_refused(made, tmp_path):
    model = golden()
    for asked, words in (
        ({"faithfulness": 2.0}, "faithfulness must be between 0 and 1, got 2.0"),
        ({"edges": ["a9.h9->logits"]}, "no writer 'a9.h9'"),
    ):
        with pytest.raises(InputError, match=words):
            check_model(made / "run", model, **asked)
    with pytest.raises(InputError, match="not a run directory"):
        update_run(tmp_path, model)
    other = circuits.load_model("compiled/or-gate")
    with pytest.raises(InputError, match="belongs to another graph"):
        check_model(made / "run", other, faithfulness=0.5)
