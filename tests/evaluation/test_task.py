"""`circuits tasks check` and `check_pairs`: numbers against one prompt at a time, what is warned of, what is refused."""

import json

import pytest
import torch

import circuits
from circuits.cli import tasks as tasks_command
from circuits.errors import InputError
from tasks.base import Draw, Example, Task
from tests.command import GOLDEN, run

MODEL = GOLDEN / "acdc_2l2h_kl" / "model"


@pytest.fixture(scope="module")
def model():
    return circuits.load_model(MODEL, dtype="float64")


def pairs_of(clean, corrupted, answers, distractors=None, metric="logit_difference"):
    return circuits.PromptPairs.from_tokens(clean, corrupted, answers, distractors, metric=metric)


@pytest.fixture
def pairs(model):
    """Twelve random pairs, of two lengths, with a distractor and two answers each."""
    generator = torch.Generator().manual_seed(3)
    lengths = [6] * 7 + [8] * 5
    clean, corrupted = (
        [torch.randint(0, model.d_vocab, (n,), generator=generator).tolist() for n in lengths] for _ in range(2)
    )
    return pairs_of(clean, corrupted, [[1, 2]] * 12, [3] * 12)


def naive(model, pairs):
    """(answers' mean logit - distractor's, whether the best answer is above it), one prompt at a time: [run, prompt]."""
    differences, right = torch.zeros(2, len(pairs)).double(), torch.zeros(2, len(pairs)).double()
    for i, pair in enumerate(pairs):
        for row, tokens in enumerate((pair.clean, pair.corrupted)):
            with torch.no_grad():
                logits = model.bridge(torch.tensor([tokens]))[0, pair.position]
            answers, wrong = logits[list(pair.answers)], logits[list(pair.distractors)]
            differences[row, i] = answers.mean() - wrong.mean()
            right[row, i] = float(answers.max() > wrong.max())
    return differences, right


def test_numbers_are_those_of_one_prompt_at_a_time(model, pairs):
    differences, right = naive(model, pairs)
    for batch_size in (1, 5, 32):
        result = circuits.check_pairs(model, pairs, batch_size=batch_size)
        for row, which in enumerate(("clean", "corrupted")):
            difference, accuracy = getattr(result.logit_difference, which), getattr(result.accuracy, which)
            assert difference.value == pytest.approx(float(differences[row].mean()))
            assert difference.stderr == pytest.approx(float(differences[row].std()) / 12**0.5)
            assert accuracy.value == pytest.approx(float(right[row].mean()))
        assert result.flips == float(((differences[0] > 0) != (differences[1] > 0)).double().mean())
        assert result.values == result.logit_difference
    assert 0 < result.flips < 1


def test_prompts_are_counted(model):
    clean, corrupted = [[4, 5, 6], [4, 5, 6], [4, 5, 6], [4, 7, 6, 8]], [[4, 9, 6], [4, 9, 6], [9, 5, 6], [4, 7, 6, 9]]
    result = circuits.check_pairs(model, pairs_of(clean, corrupted, [1] * 4, [2] * 4))
    assert result.lengths == {3: 3, 4: 1}
    assert result.prefixes == {0: 1, 1: 2, 3: 1}
    assert (result.equal_pairs, result.equal_clean) == (1, 2)
    assert any("1 of 4 pairs repeat an earlier pair" in warning for warning in result.warnings)
    assert result.merging is None, "this model has no tokenizer"


def test_low_accuracy_is_warned_of_and_high_is_not(model, pairs):
    _, per_prompt = naive(model, pairs)
    wrong, right = ([i for i in range(12) if per_prompt[0, i] == value] for value in (0, 1))
    result, done = circuits.check_pairs(model, pairs[[*wrong, right[0]]]), circuits.check_pairs(model, pairs[right])
    share = result.accuracy.clean.value
    assert share == 1 / (len(wrong) + 1) < 0.8
    assert any(f"accuracy {share:.2f} is below 0.8" in warning for warning in result.warnings)
    assert (done.accuracy.clean.value, done.warnings) == (1.0, ())


def test_without_distractors_there_is_no_accuracy(model):
    result = circuits.check_pairs(model, pairs_of([[4, 5]], [[4, 6]], [1], metric="probability"))
    assert (result.accuracy, result.logit_difference, result.flips) == (None, None, None)
    assert 0 < result.values.clean.value < 1
    assert result.values.clean.stderr is None
    assert "without distractors" in result.warnings[0]


def test_a_divergence_is_measured_from_the_clean_run(model, pairs):
    same = circuits.PromptPairs.from_pairs(list(pairs), metric="kl_divergence")
    result = circuits.check_pairs(model, same)
    assert result.values.clean.value == pytest.approx(0, abs=1e-12)
    assert result.values.corrupted.value > 0


def test_pairs_that_do_not_fit_are_refused(model):
    with pytest.raises(InputError, match="knows ids from 0 to 19"):
        circuits.check_pairs(model, pairs_of([[4, 10**6]], [[4, 5]], [1], [2]))
    with pytest.raises(InputError, match="no metric 'logits'"):
        circuits.check_pairs(model, pairs_of([[4, 6]], [[4, 5]], [1], [2], metric="logits"))


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_file_of_pairs_is_checked_as_tables_and_as_json(monkeypatch, tmp_path, capsys):
    lines = [{"clean": [4, i], "corrupted": [4, i + 1], "answers": [1], "distractors": [2]} for i in (5, 7, 9, 11)]
    given = ["tasks", "check", write(tmp_path / "p.jsonl", *lines), "--model", str(MODEL), "--dtype", "float64"]
    assert run(monkeypatch, given) == 0
    output = capsys.readouterr().out
    assert "4 pairs" in output
    assert "2 (4 pairs)" in output
    assert run(monkeypatch, [*given, "--json", "--n", "3"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["pairs"] == 3
    assert record["lengths"] == {"2": 3}
    assert set(record["accuracy"]) == {"clean", "corrupted"}
    assert isinstance(record["warnings"], list)


def test_what_cannot_be_checked_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys):
    good = {"clean": [4, 5], "corrupted": [4, 6], "answers": [1], "distractors": [2]}
    (tmp_path / "empty.jsonl").write_text("")
    for target, message in (
        ("iio", "did you mean 'ioi'"),
        ("", "there is no task ''"),
        ("../../etc/passwd\n", "there is no task"),
        (str(tmp_path / "none.jsonl"), "there is no file"),
        (str(tmp_path / "empty.jsonl"), "empty.jsonl"),
        (write(tmp_path / "long.jsonl", {**good, "corrupted": [4, 6, 7]}), "equal length"),
        (write(tmp_path / "text.jsonl", {**good, "clean": "a b", "corrupted": "a c"}), "tokenizer"),
        ("ioi", "no tokenizer"),
    ):
        assert run(monkeypatch, ["tasks", "check", target, "--model", str(MODEL)]) == 2, target
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    for option in (["--n", "0"], ["--seed", "-1"], ["--dtype", "float8"], ["--device", "gpu9"]):
        target = write(tmp_path / "good.jsonl", good)
        assert run(monkeypatch, ["tasks", "check", target, "--model", str(MODEL), *option]) == 2, option
        capsys.readouterr()


def test_tasks_are_listed_without_a_model(monkeypatch, capsys):
    monkeypatch.setattr(tasks_command, "load", None)
    assert run(monkeypatch, ["tasks"]) == 0
    output = capsys.readouterr().out
    assert "greater-than" in output
    assert "2305.00586" in output


class Split(Task):
    """One name is several tokens, and its answers merge with the prompt."""

    name = "split"
    title = "Split"
    description = "Spell on"
    source = "this test"
    word_lists = {"names": ("Mary", "John", "Peter", "Xqzyvian")}  # noqa: RUF012

    def example(self, draw: Draw) -> Example:
        a, b = draw.words("names", 2)
        return Example(f"{a} met {b}. The gr", f"{b} met {a}. The gr", ("een",), ("eat",))


@pytest.mark.real_model
def test_words_left_out_and_answers_that_merge_are_told(smollm2):
    result = circuits.check_task(smollm2, Split(), 4)
    assert result.word_lists["names"].entries == 4
    assert result.word_lists["names"].left_out == ("Xqzyvian",)
    assert result.merging.pairs == 4
    assert any("4 of 4 pairs an answer or distractor merges" in warning for warning in result.warnings)


@pytest.mark.real_model
def test_a_task_is_checked_from_the_command_line(monkeypatch, smollm2, capsys):
    monkeypatch.setattr(tasks_command, "load", lambda *_: smollm2)
    assert run(monkeypatch, ["tasks", "check", "greater-than", "--n", "8"]) == 0
    output = capsys.readouterr().out
    assert "probability difference" in output
    assert "nouns" in output
    assert run(monkeypatch, ["tasks", "--examples"]) == 0
    assert "lasted from" in capsys.readouterr().out
