"""What is said of pairs that say little, against naive counts; and that it is said once, wherever they are asked about."""

import json
import warnings
from dataclasses import replace
from importlib import import_module

import pytest
import torch

import circuits
from circuits import Circuit, PairsWarning, PromptPairs
from circuits.question import question
from circuits.question.ablations import Gaussian
from circuits.question.answers import Answers
from circuits.question.doubts import about_answers, about_prompts, collected, padded
from circuits.question.question import Question
from circuits.runs.discover import discover
from tests.command import GOLDEN, performed, run
from tests.small_tokenizers import Reader, tokenizer
from tests.tiny_models import random_pairs, tiny

MODEL = GOLDEN / "acdc_2l2h_kl" / "model"


def awkward(seed=0):
    """Of two lengths, with two answers, positions that are not the last, and a duplicate."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [7, 5, 7, 5, 7]
    clean, corrupted = ([torch.randint(3, 40, (n,), generator=generator).tolist() for n in lengths] for _ in range(2))
    clean[4], corrupted[4] = clean[0], corrupted[0]
    return PromptPairs.from_tokens(
        clean, corrupted, [[4, 5], [6], [7, 8], [9], [4, 5]], [[10], [11, 12], [13], [14], [10]], [6, 3, 4, 4, 6]
    )


def naive(model, pairs):
    """(rank of the best answer, whether it is above all distractors), one prompt and one token at a time."""
    ranks, right = [], []
    for pair in pairs:
        with torch.no_grad():
            logits = model.bridge(torch.tensor([pair.clean]))[0, pair.position].tolist()
        best = max(logits[token] for token in pair.answers)
        ranks.append(1 + sum(value > best for value in logits))
        right.append(best > max(logits[token] for token in pair.distractors))
    return ranks, sum(right) / len(right)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_ranks_are_those_of_one_prompt_at_a_time(name):
    model, pairs = tiny(name), awkward()
    ranks, accuracy = naive(model, pairs)
    for batch_size in (1, 3):
        result = circuits.faithfulness(model, pairs, Circuit.full(model.graph), n_random=0, batch_size=batch_size)
        assert result.answers.ranks.tolist() == ranks
        assert result.answers.accuracy == pytest.approx(accuracy)
        assert result.top_1_rate == sum(rank == 1 for rank in ranks) / 5
        assert result.median_rank == sorted(ranks)[2]
        assert f"median rank {sorted(ranks)[2]}" in str(result)


METHODS = {
    "eap": {"edges": 5, "random_circuits": 0},
    "activation-patching": {},
    "path-patching": {"receivers": ["logits"]},
    "attribution-patching": {},
    "atp-star": {"positions": "all"},
    "coar": {"samples": 40, "nodes": "heads"},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_job_tells_them_without_a_run_of_its_own(method, monkeypatch):
    model, pairs = tiny("gpt2"), awkward()
    monkeypatch.setattr(question, "run", None)
    result = discover(model, pairs, method=method, **METHODS[method])
    assert result.answers.ranks.tolist() == naive(model, pairs)[0]
    outcome = result.summary()
    assert (outcome["top_1_rate"], outcome["median_rank"]) == (result.answers.top_1_rate, result.answers.median_rank)
    assert json.loads(json.dumps(outcome, allow_nan=False))["warnings"] == list(result.warnings)


def test_what_no_method_saw_is_looked_at(tmp_path):
    """A sweep that goes on from stored pieces makes no clean run."""
    model, pairs = tiny("gpt2"), awkward()
    once, again = (discover(model, pairs, method="activation-patching", store=tmp_path / "store") for _ in range(2))
    assert again.answers.ranks.tolist() == once.answers.ranks.tolist() == naive(model, pairs)[0]


def test_without_distractors_there_are_ranks_and_no_accuracy():
    model, pairs = tiny("gpt2"), awkward()
    bare = PromptPairs.from_pairs([replace(pair, distractors=()) for pair in pairs], metric="probability")
    result = discover(model, bare, method="eap", edges=5, random_circuits=0)
    assert result.accuracy is None
    assert result.answers.ranks.tolist() == naive(model, pairs)[0]
    some = PromptPairs.from_pairs([*list(bare)[:2], *list(pairs)[2:]], metric="probability")
    assert discover(model, some, method="eap", edges=5, random_circuits=0).accuracy is None


def right_and_wrong(model, n_right, n_wrong):
    """Pairs that the model gets right, and pairs that it gets wrong."""
    pairs = random_pairs(40)
    good = [replace(p, answers=(a,), distractors=(b,)) for p in pairs for a, b in [_ordered(model, p)]]
    bad = [replace(p, answers=p.distractors, distractors=p.answers) for p in good]
    return PromptPairs.from_pairs([*good[:n_right], *bad[20 : 20 + n_wrong]])


def _ordered(model, pair):
    logits = model.bridge(torch.tensor([pair.clean]))[0, -1]
    a, b = pair.answers[0], pair.distractors[0]
    return (a, b) if logits[a] > logits[b] else (b, a)


def test_a_model_that_does_not_do_it_is_warned_of_everywhere():
    model = tiny("gpt2")
    poor, well = right_and_wrong(model, 2, 3), right_and_wrong(model, 4, 1)
    full = Circuit.full(model.graph)
    message = r"accuracy 0\.40 is below 0\.8"
    with pytest.warns(PairsWarning, match=message) as caught:
        circuits.faithfulness(model, poor, full, n_random=0)
    assert [warning.filename for warning in caught] == [__file__]
    for method in ("eap", "attribution-patching"):
        with pytest.warns(PairsWarning, match=message) as caught:
            result = discover(model, poor, method=method)
        assert len(caught) == len(result.warnings) == 1
    assert any("accuracy 0.40" in warning for warning in circuits.check_pairs(model, poor).warnings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        circuits.faithfulness(model, well, full, n_random=0)
        assert discover(model, well, method="eap").warnings == ()


SAME = [4, 5, 6, 7]


def pairs_of(*prompts, position=3, roles=None):
    n = len(prompts)
    clean, corrupted = zip(*prompts, strict=True)
    return PromptPairs.from_tokens(clean, corrupted, [8] * n, [9] * n, [position] * n, roles)


def test_pairs_of_one_prompt_are_counted_and_named():
    model = tiny("gpt2")
    different = ([4, 5, 6, 7], [4, 9, 6, 7])
    some = pairs_of(different, (SAME, SAME), different, (SAME, SAME))
    with pytest.warns(PairsWarning, match=r"in 2 of 4 pairs \(the first is pair 1\) the clean and the corrupted"):
        circuits.edge_attribution(model, some)
    with pytest.warns(PairsWarning, match="are the same in all 2 pairs"):
        circuits.activation_patching(model, some[[1, 3]])
    with pytest.warns(PairsWarning, match="the only pair has the same"):
        circuits.acdc(model, some[[1]], threshold=0.1)
    assert circuits.check_pairs(model, some).same_prompts == 2


def test_a_difference_behind_the_answer_is_none():
    model = tiny("llama")
    late = pairs_of(([4, 5, 6, 7], [4, 5, 6, 9]), position=2)
    assert "every effect is 0" in about_prompts(model, late)[0]
    assert circuits.attribution_patching(model, late).values.abs().max() == 0
    at_it = pairs_of(([4, 5, 6, 7], [4, 5, 9, 7]), position=2)
    assert about_prompts(model, at_it) == []
    assert circuits.attribution_patching(model, at_it).values.abs().max() > 0


@pytest.mark.parametrize(
    ("ablation", "number"), [("interchange", 1), ("zero", 0), ("mean", 0), ("gaussian", 1), (Gaussian(("S",)), 0)]
)
def test_only_ablations_that_look_at_the_difference_are_warned_of(ablation, number):
    pairs = pairs_of((SAME, SAME), (SAME[::-1], SAME[::-1]), roles=[{"S": 1}] * 2)
    with collected() as messages:
        Question.ask(tiny("gpt2"), pairs, ablation=ablation)
    assert len(messages) == number


def test_an_empty_circuit_of_one_prompt_gets_no_advice_to_ask_for_more():
    model, same = tiny("gpt2"), pairs_of((SAME, SAME))
    for options in ({"method": "eap", "threshold": 1.0}, {"method": "acdc", "threshold": 0.1}):
        result = discover(model, same, **options)
        assert not len(result.circuit)
        assert not any("more edges" in note for note in result.notes)
        assert any("the same clean and corrupted prompt" in warning for warning in result.warnings)
    with_difference = discover(model, awkward(), method="eap", threshold=1e6)
    assert any("more edges" in note for note in with_difference.notes)


def seen(model, *ranks, right=1.0, d_vocab=1000, first=0):
    n = len(ranks)
    return Answers(torch.tensor(ranks).double(), torch.full((n,), right).double(), d_vocab, torch.full((n,), first))


def of_text(model, tmp_path, *lines):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return PromptPairs.from_jsonl(path, model)


def gift(space=" ", end=""):
    clean, corrupted = (
        f"When Mary and John went to the store, {name} gave a drink to{end}" for name in ("John", "Mary")
    )
    return {"clean": clean, "corrupted": corrupted, "answers": [f"{space}Mary"], "distractors": [f"{space}John"]}


@pytest.mark.parametrize("kind", ["byte-level", "legacy", "metaspace-first", "metaspace-always"])
def test_an_answer_without_its_space_is_guessed(kind, tmp_path):
    model = Reader(tokenizer(kind))
    without, mixed = of_text(model, tmp_path, gift(""), gift("")), of_text(model, tmp_path, gift(), gift(), gift(""))
    (never,) = about_answers(model, without, seen(model, 153, 781))
    assert never == ("the answer is never among the first 100 tokens (median rank 467 of 1,000); did you mean ' Mary'?")
    (one,) = about_answers(model, mixed, seen(model, 1, 2, 401))
    assert one.startswith("in 1 of 3 pairs (pair 2) the answer is not among the first 100 tokens (median rank 401 ")
    assert one.endswith("did you mean ' Mary'?")
    assert about_answers(model, without, seen(model, 100, 1)) == []
    assert about_answers(model, mixed, seen(model, 401, 1, 1)) == [], "one hard pair of three, well written"
    (most,) = about_answers(model, mixed, seen(model, 401, 501, 1))
    assert most.endswith("does it follow the prompt as it is written?")


@pytest.mark.parametrize("kind", ["byte-level", "legacy", "metaspace-first", "metaspace-always"])
def test_an_answer_below_itself_with_a_space_is_warned_of(kind, tmp_path):
    model = Reader(tokenizer(kind))
    without, good = of_text(model, tmp_path, gift(""), gift("")), of_text(model, tmp_path, gift(), gift())
    mary = good.answers[0][0]
    (message,) = about_answers(model, without, seen(model, 1, 57, first=mary))
    assert message == (
        "in 1 of 2 pairs (pair 1) the model's first choice is the answer with a space before it; did you mean ' Mary'?"
    )
    assert about_answers(model, without, seen(model, 2, 57, first=mary + 1)) == []
    assert about_answers(model, good, seen(model, 1, 57, first=mary)) == []


@pytest.mark.parametrize("kind", ["byte-level", "legacy", "metaspace-first", "metaspace-always"])
def test_a_distractor_without_the_space_of_its_answer_is_warned_of(kind, tmp_path):
    model = Reader(tokenizer(kind))
    line = gift() | {"distractors": ["John"]}
    (message,) = about_answers(model, of_text(model, tmp_path, gift(), line), seen(model, 1, 1))
    assert message == (
        "in 1 of 2 pairs (pair 1) the answer begins with a space and a distractor does not; did you mean ' John'?"
    )


@pytest.mark.parametrize("pad", ["<pad>", None])
def test_several_ends_of_text_are_padding_whatever_the_tokenizer_pads_with(pad):
    model = Reader(tokenizer("byte-level"))
    model.tokenizer.pad_token, model.tokenizer.eos_token, model.tokenizer.bos_token = pad, "</s>", "<s>"
    end = model.tokenizer.eos_token_id

    def padding(*prompts, position=None):
        length = len(prompts[0])
        places = [length - 1 if position is None else position] * len(prompts)
        return padded(
            model, PromptPairs.from_tokens(list(prompts), list(prompts), [9] * len(prompts), positions=places)
        )

    assert padding([end, end, 8, 9], [5, 6, 7, 8]) == ([0], "'</s>'")
    assert padding([8, 9, end, end], position=1) == ([0], "'</s>'")
    assert padding([end, 7, 8, 9], [end, 8, 8, 9]) == ([], ""), "it begins all texts"
    assert padding([end, end, 8, 9], [end, end, 7, 8])[0] == []
    assert padding([end, end, end, 9], [end, end, end, 8])[0] == [0, 1]


def test_a_prompt_that_ends_with_a_space_is_seen(tmp_path):
    model = Reader(tokenizer("byte-level"))
    pairs = of_text(model, tmp_path, gift("", " "))
    (message,) = about_answers(model, pairs, seen(model, 300))
    assert "the prompt ends with a space" in message


def test_a_model_without_a_tokenizer_is_warned_of_without_a_guess():
    model = tiny("gpt2")
    (message,) = about_answers(model, awkward(), seen(model, *[200] * 5))
    assert message.startswith("the answer is never among the first 100")


def test_logits_that_are_no_numbers_are_no_first_choice():
    from circuits.question.answers import saw, watched

    pairs = awkward()[:1]
    (batch,) = pairs.batches(4)
    with watched(1, 40) as answers:
        saw(batch, torch.full((1, 40), torch.nan))
    assert answers.top_1_rate == 0


# Ids of the small tokenizers: 1 begins, 2 ends, 3 pads.
@pytest.mark.parametrize(
    ("special", "prompts", "position", "result"),
    [
        ({}, [[1, 9, 8, 7]], 3, []),
        ({}, [[3, 1, 9, 8], [1, 7, 9, 8]], 3, [0]),
        ({}, [[1, 9, 8, 3]], 2, [0]),
        ({}, [[1, 9, 3, 8]], 3, [0]),
        ({"pad": None}, [[3, 3, 1, 9]], 3, []),
        # GPT-2: one token begins, ends and pads.
        ({"bos": "</s>", "pad": "</s>"}, [[2, 9, 8, 7], [2, 8, 8, 7]], 3, []),
        ({"bos": "</s>", "pad": "</s>"}, [[2, 9, 2, 7]], 3, []),
        ({"bos": "</s>", "pad": "</s>"}, [[2, 2, 9, 7], [2, 8, 8, 7]], 3, [0]),
        ({"bos": "</s>", "pad": "</s>"}, [[2, 9, 9, 7], [8, 8, 8, 7]], 3, [0]),
        ({"bos": "</s>", "pad": "</s>"}, [[2, 9, 8, 2]], 3, [0]),
        ({"bos": "</s>", "pad": "</s>"}, [[2, 9, 8, 2]], 2, []),
        ({"bos": "</s>", "pad": "</s>"}, [[2, 9, 2, 2]], 1, [0]),
        # Llama with pad = eos; Qwen, which begins with nothing.
        ({"pad": "</s>"}, [[1, 9, 8, 7]], 3, []),
        ({"pad": "</s>"}, [[1, 9, 2, 7]], 3, []),
        ({"pad": "</s>"}, [[2, 1, 9, 8], [1, 9, 9, 8]], 3, [0]),
        ({"bos": None}, [[3, 9, 8, 7], [3, 8, 8, 7]], 3, []),
        ({"bos": None}, [[3, 9, 8, 7], [9, 8, 8, 7]], 3, [0]),
        ({"pad": "<unk>"}, [[1, 9, 0, 7]], 3, []),
        ({"pad": "<unk>"}, [[0, 1, 9, 7]], 3, []),
        ({"pad": "<unk>"}, [[0, 0, 1, 9]], 3, [0]),
    ],
)
def test_padding_is_found_and_what_begins_or_ends_a_text_is_not(special, prompts, position, result):
    model = Reader(tokenizer("byte-level", **special))
    corrupted = [[*prompt[:1], prompt[1], *prompt[2:]] for prompt in prompts]
    pairs = PromptPairs.from_tokens(prompts, corrupted, [20] * len(prompts), None, [position] * len(prompts))
    assert padded(model, pairs)[0] == result
    text = [message for message in about_prompts(model, pairs, None) if "padding" in message]
    assert len(text) == bool(result)
    assert all(f"in {len(result)} of {len(prompts)} pairs" in message for message in text)


def test_padding_in_the_corrupted_prompt_counts_and_the_library_warns():
    model = circuits.load_model(tiny("gpt2").bridge, tokenizer=tokenizer("word-level"))
    pairs = pairs_of(([1, 9, 8, 7], [1, 3, 8, 7]))
    with pytest.warns(PairsWarning, match=r"in 1 of 1 pairs \(pair 0\) a prompt has the padding token '<pad>'"):
        circuits.attribution_patching(model, pairs)
    assert circuits.check_pairs(model, pairs).padded == 1


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def half_the_same(folder):
    lines = [
        {"clean": [4, 5, i], "corrupted": [4, c, i], "answers": [1], "distractors": [2]} for i, c in ((6, 5), (7, 9))
    ]
    return write(folder / "pairs.jsonl", *lines)


@pytest.fixture(scope="module", params=["eap", "acdc", "attribution-patching"])
def warned(request, tmp_path_factory):
    """A run on two pairs, of which one has the same prompt twice: the command, what it printed, and its folder."""
    folder = tmp_path_factory.mktemp("warned")
    given = ["discover", str(half_the_same(folder)), "--model", str(MODEL), "--method", request.param]
    given += ["--threshold", "0.1"] if request.param == "acdc" else []
    return given, performed(*given, "--out", folder / "run"), folder


def warnings_of(folder):
    return json.loads((folder / "run" / "run.json").read_text())["summary"]["warnings"]


def test_the_command_says_each_warning_once_and_keeps_it(warned):
    _, (out, error), folder = warned
    assert (out + error).count("in 1 of 2 pairs (pair 0) the clean and the corrupted prompt are the same") == 1
    assert next(line for line in out.splitlines() if "are the same, up to" in line).startswith("warning: ")
    assert "median rank of the answer" in out
    assert "in 1 of 2 pairs (pair 0)" in warnings_of(folder)[0]


def test_warnings_are_in_the_json_and_once_on_standard_error(warned):
    given, _, folder = warned
    out, error = performed(*given, "--out", folder / "again", "--json")
    assert json.loads(out)["warnings"] == warnings_of(folder)
    assert error.count("circuits: warning: in 1 of 2 pairs") == 1


def test_warnings_are_in_the_report(warned):
    folder = warned[-1]
    performed("report", folder / "run", "--out", folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "Warning: in 1 of 2 pairs" in page
    assert "median rank" in page


def test_the_evaluation_says_them_once_and_older_ones_are_read(monkeypatch, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        run(
            monkeypatch,
            ["discover", str(half_the_same(tmp_path)), "--model", str(MODEL), "--method", "eap", "--out", str(out)],
        )
        == 0
    )
    capsys.readouterr()
    assert (
        run(monkeypatch, ["evaluate", str(out), "--parts", "faithfulness,completeness", "--random-circuits", "2"]) == 0
    )
    output = "".join(capsys.readouterr())
    assert output.count("in 1 of 2 pairs (pair 0) the clean") == 1
    assert "median rank of the answer" in output
    record = json.loads((out / "evaluation.json").read_text())
    assert set(record["answers"]) == {"accuracy", "top_1_rate", "median_rank"}
    from circuits.pages.evaluation import evaluation_sections
    from circuits.pages.evaluation_tables import tables

    del record["answers"], record["warnings"]  # as an older version wrote it
    assert tables(record)
    assert evaluation_sections(record)
    summary = json.loads((out / "run.json").read_text())
    for name in ("top_1_rate", "median_rank", "warnings"):
        del summary["summary"][name]
    del summary["sha256" if "sha256" in summary else next(key for key in summary if "sum" in key and key != "summary")]
    (out / "run.json").write_text(json.dumps(summary))
    assert run(monkeypatch, ["report", str(out), "--out", str(tmp_path / "report.html")]) == 0


@pytest.mark.real_model
def test_the_default_model_and_answers_without_a_space(monkeypatch, tmp_path, capsys, smollm2):
    for command in ("discover", "tasks"):
        monkeypatch.setattr(import_module(f"circuits.cli.{command}"), "load", lambda *_, **__: smollm2)
    path = write(tmp_path / "p.jsonl", gift(""), gift())
    for given in (
        ["tasks", "check", str(path)],
        ["discover", str(path), "--method", "eap", "--out", str(tmp_path / "run")],
    ):
        assert run(monkeypatch, given) == 0
        out = capsys.readouterr().out
        assert out.count("did you mean ' Mary'?") == 1
        assert "in 1 of 2 pairs (pair 0) the answer is not among the first 100" in out
    alone = write(tmp_path / "alone.jsonl", gift(""))
    (never,) = circuits.check_pairs(smollm2, PromptPairs.from_jsonl(alone, smollm2)).warnings
    assert never.startswith("the answer is never among the first 100")
    good = write(tmp_path / "good.jsonl", gift())
    result = circuits.check_pairs(smollm2, PromptPairs.from_jsonl(good, smollm2))
    assert (result.warnings, result.median_rank, result.padded) == ((), 1.0, 0)


def test_a_circuit_of_far_fewer_edges_than_requested_names_the_option_that_adds_more():
    model, pairs = tiny("gpt2"), awkward()
    for edges in range(4, 40):
        result = discover(model, pairs, method="eap", edges=edges, random_circuits=0)
        pruned = any("--fill" in note for note in result.notes)
        assert pruned == (0 < len(result.circuit) <= edges * 2 / 3)
    filled = discover(model, pairs, method="eap", edges=8, fill=True, random_circuits=0)
    assert not any("--fill" in note for note in filled.notes)
