"""Tasks: found by name, drawn the same everywhere, and never for ever."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

import tasks
from circuits import plugins
from circuits.errors import InputError
from tasks import words
from tasks.base import At, Draw, Example, Task, UnusableError

Toys = Callable[..., Any]
TEXT = sorted(set(tasks.BUILT_IN) - set(tasks.COMPILED))
"""Tasks for any model with a tokenizer."""


class Opposites(Task):
    """The smallest task: how long a new one is."""

    name = "opposites"
    title = "Opposites"
    description = "The opposite of hot is cold"
    source = "this test"
    word_lists: ClassVar = {"pairs": words.ANTONYMS[:4]}

    def example(self, draw: Draw) -> Example:
        (word, opposite), (other, wrong) = draw.rows("pairs", 2)
        prompt = "The opposite of {} is"
        return Example(prompt.format(word), prompt.format(other), (f" {opposite}",), (f" {wrong}",), {"word": word})


def task_writing(example: Callable[[Draw], Example]) -> Task:
    """A task that writes this example."""

    class Written(Opposites):
        name = "written"

        def example(self, draw: Draw) -> Example:
            return example(draw)

    return Written()


def entry_points(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    result = [EntryPoint(name, value, plugins.GROUP) for name, value in points]
    monkeypatch.setattr(plugins, "entry_points", lambda group: result if group == plugins.GROUP else [])


class TestLoading:
    @pytest.mark.parametrize("name", sorted(tasks.BUILT_IN))
    def test_built_in_tasks_need_no_installation(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        entry_points(monkeypatch)
        task = tasks.load(name)
        assert (task.name, task.label) == (name, name)
        assert task.title
        assert task.description
        assert task.source
        assert tasks.load(name.replace("-", "_")) == task

    def test_names_are_sorted_and_include_what_other_packages_ship(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entry_points(monkeypatch, ("ioi", "tasks.ioi:IOI"), ("my_task", "tasks.ioi:IOI"))
        assert tasks.names() == sorted([*tasks.BUILT_IN, "my-task"])
        assert tasks.load("my_task").name == "ioi"

    def test_options_reach_the_task(self) -> None:
        assert tasks.load("ioi", counterfactual="abc").label == "ioi(counterfactual=abc)"

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda: tasks.load("iio"),
                r"there is no task 'iio'; did you mean 'ioi' or .*\? Tasks are acronym, addition",
            ),
            (lambda: tasks.load("qqqq"), r"there is no task 'qqqq'; Tasks are"),
            (lambda: tasks.load(""), r"there is no task ''"),
            (lambda: tasks.load("ioi", corruption="abc"), "no option 'corruption'; it takes counterfactual"),
            (lambda: tasks.load("greater-than", x=1), "no option 'x'; it takes none"),
        ],
    )
    def test_what_does_not_exist_is_refused_with_what_does(self, call: Callable[[], Task], message: str) -> None:
        with pytest.raises(InputError, match=message):
            call()

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("no_such_package:Task", r"task 'theirs' \(no_such_package:Task\) cannot be loaded: No module named"),
            ("tasks.ioi:Nothing", "cannot be loaded: module 'tasks.ioi' has no attribute 'Nothing'"),
            ("tasks.words:PLACES", "is not a class derived from tasks.base.Task"),
        ],
    )
    def test_a_broken_entry_point_is_refused(self, monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
        entry_points(monkeypatch, ("theirs", value))
        with pytest.raises(InputError, match=message):
            tasks.load("theirs")

    def test_one_name_for_two_tasks_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entry_points(monkeypatch, ("ioi", "theirs:IOI"))
        with pytest.raises(InputError, match=r"two packages have a task 'ioi': tasks.ioi:IOI and theirs:IOI"):
            tasks.names()

    def test_names_import_no_torch(self) -> None:
        code = "import sys, tasks; tasks.names(); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=os.getcwd(), check=False).returncode == 0

    def test_the_base_can_be_taken_from_the_package(self) -> None:
        from tasks import base

        assert (tasks.Task, tasks.Example, tasks.At) == (base.Task, base.Example, base.At)
        with pytest.raises(AttributeError, match="nothing"):
            tasks.nothing  # noqa: B018


class TestDrawing:
    @pytest.mark.parametrize("name", TEXT)
    def test_the_first_pairs_do_not_depend_on_how_many_are_drawn(self, toy: Toys, name: str) -> None:
        model, task = toy(), tasks.load(name)
        assert task.pairs(model, 30, seed=4)[:7] == task.pairs(model, 7, seed=4)

    @pytest.mark.parametrize("name", TEXT)
    def test_pairs_are_distinct_and_depend_on_the_seed(self, toy: Toys, name: str) -> None:
        model, task = toy(), tasks.load(name)
        pairs, others = task.pairs(model, 100), task.pairs(model, 100, seed=1)
        assert len(set(pairs.texts)) == 100
        assert len({*pairs.texts, *others.texts}) > 160  # successor has no more than 360 pairs
        assert (pairs.seed, others.seed) == (0, 1)
        assert pairs.source == name

    @pytest.mark.parametrize("name", TEXT)
    def test_pairs_of_one_length_are_the_most_frequent_length_of_the_task(self, toy: Toys, name: str) -> None:
        model, task = toy(), tasks.load(name)
        usual = Counter(len(prompt) for prompt in task.pairs(model, 32, seed=4).clean).most_common()
        pairs = task.pairs(model, 12, seed=4, one_length=True)
        lengths = {len(prompt) for prompt in (*pairs.clean, *pairs.corrupted)}
        assert len(lengths) == 1
        assert lengths <= {length for length, n in usual if n == usual[0][1]}
        assert len(set(pairs.texts)) == 12
        assert pairs[:5] == task.pairs(model, 5, seed=4, one_length=True)

    def test_pairs_of_one_length_are_the_same_where_all_have_it(self, toy: Toys) -> None:
        assert Opposites().pairs(toy(), 12, one_length=True) == Opposites().pairs(toy(), 12)

    def test_no_more_pairs_of_one_length_than_there_are(self, toy: Toys) -> None:
        with pytest.raises(InputError, match=r"gives 12 pairs of \d+ tokens .*Ask for at most 12"):
            Opposites().pairs(toy(), 13, one_length=True)

    def test_templates_of_the_length_alternate_still(self, toy: Toys) -> None:
        def example(draw: Draw) -> Example:
            (word, opposite), (other, wrong) = draw.rows("pairs", 2)
            prompt = ("The opposite of {} is", "So the opposite of {} is", "It was known {} is not")[draw.index % 3]
            return Example(prompt.format(word), prompt.format(other), (f" {opposite}",), (f" {wrong}",))

        pairs = task_writing(example).pairs(toy(), 10, one_length=True)
        firsts = [texts[0].split()[0] for texts in pairs.texts if texts[0]]
        assert firsts == ["So", "It"] * 5

    def test_pairs_are_the_same_in_every_process(self, toy: Toys) -> None:
        """Pinned: neither the hash seed, nor the machine, nor a new version changes what a seed means."""
        pairs = Opposites().pairs(toy(), 3, seed=7)
        words = [str(text).split()[3] for texts in pairs.texts for text in texts]
        assert words == ["big", "up", "hot", "left", "big", "hot"]

    def test_all_distinct_pairs_can_be_had_and_no_more(self, toy: Toys) -> None:
        pairs = Opposites().pairs(toy(), 12)
        assert len(set(pairs.texts)) == 12
        with pytest.raises(InputError, match=r"opposites gives 12 pairs .*2000 × there already.*Ask for at most 12"):
            Opposites().pairs(toy(), 13)

    def test_rows_with_a_word_of_several_tokens_are_not_drawn(self, toy: Toys) -> None:
        pairs = Opposites().pairs(toy(whole=lambda word: word != "cold"), 6)
        assert not any("hot" in text for texts in pairs.texts for text in texts if text)
        with pytest.raises(InputError, match=r"of the 4 entries of the word list 'pairs', 1 are single tokens of toy"):
            Opposites().pairs(toy(whole=lambda word: word not in ("cold", "up", "big")), 1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [({"n": 0}, "n is 0"), ({"n": -3}, "n is -3"), ({"n": True}, "n is True"), ({"seed": True}, "seed is True")],
    )
    def test_counts_and_seeds_are_whole_numbers(self, toy: Toys, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Opposites().pairs(toy(), **arguments)

    def test_a_model_without_tokenizer_or_with_a_short_context_is_refused(self, toy: Toys) -> None:
        model = toy()
        model.n_ctx = 5
        with pytest.raises(InputError, match="toy reads at most 5"):
            Opposites().pairs(model, 2)
        model.tokenizer = None
        with pytest.raises(InputError, match="opposites is text, but toy has no tokenizer"):
            Opposites().pairs(model, 2)


class TestExamples:
    @pytest.mark.parametrize(
        ("example", "reason"),
        [
            (Example("a b", "a b c", (" d",)), "unequal length"),
            (Example("a b", "a b", (" d",)), "the same tokens"),
            (Example("a b", "a c", (" d e",)), "not one token"),
            (Example("a b", "a c", ("",)), "not one token"),
            (Example("a b", "a c", (" d",), (" d",)), "are the same token"),
            (Example("a b", "a c", (" d", " d")), "are the same token"),
        ],
    )
    def test_unsuitable_examples_are_dropped_and_the_reason_is_given(
        self, toy: Toys, example: Example, reason: str
    ) -> None:
        with pytest.raises(InputError, match=rf"written gives 0 pairs .*2000 × .*{reason}"):
            task_writing(lambda draw: example).pairs(toy(), 1)

    def test_one_that_does_not_suit_is_drawn_again(self, toy: Toys) -> None:
        def example(draw: Draw) -> Example:
            number = draw.random.randrange(10)
            if number % 2:
                raise UnusableError("odd")
            return Example(f"a {number} b", f"a {number} c", (" d",))

        pairs = task_writing(example).pairs(toy(), 5)
        assert sorted(str(clean) for clean, _ in pairs.texts) == [f"a {n} b" for n in (0, 2, 4, 6, 8)]

    @pytest.mark.parametrize(
        ("at", "index"),
        [
            ("Tim", 3),
            (At("Tim", 1), 6),
            (At("Tim", -1), 6),
            (At("Tim", shift=1), 4),
            (At("Tim", 1, -2), 4),
            ("Timid", 1),
        ],
    )
    def test_roles_are_whole_words(self, toy: Toys, at: str | At, index: int) -> None:
        """Tokens: BOS, Timid, comma, Tim, and, then, Tim, said."""
        task = task_writing(
            lambda draw: Example(
                "Timid, Tim and then Tim said", "Timid, Tim and then Tom said", (" d",), roles={"r": at}
            )
        )
        (pair,) = task.pairs(toy(), 1)
        assert pair.roles == {"r": index, "end": 7}

    def test_a_word_of_several_tokens_is_found_by_its_last(self, toy: Toys) -> None:
        task = task_writing(lambda draw: Example("we saw Tim here", "we met Tim here", (" d",), roles={"r": "Tim"}))
        (pair,) = task.pairs(toy(whole=lambda word: word != "Tim"), 1)
        assert (pair.roles["r"], len(pair)) == (6, 8)

    @pytest.mark.parametrize("at", ["Bob", At("Tim", 1), At("Tim", shift=9), At("Tim", shift=-9)])
    def test_a_role_that_is_not_in_the_prompt_is_a_mistake_in_the_task(self, toy: Toys, at: str | At) -> None:
        task = task_writing(lambda draw: Example("we saw Tim", "we met Tim", (" d",), roles={"r": at}))
        with pytest.raises(ValueError, match=r"does not have|has 4 tokens") as mistake:
            task.pairs(toy(), 1)
        assert not isinstance(mistake.value, InputError)


def test_drawing_reports_its_progress(toy: Toys) -> None:
    seen: list[tuple[int, int]] = []
    Opposites().pairs(toy(), 3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
