"""Pairs from every kind of file and record: the published forms, chosen columns, unfit pairs, and ids of another tokenizer."""

import json
import re

import pytest

from circuits.errors import InputError, PairsError, PairsWarning
from circuits.prompts.columns import parse_columns
from circuits.prompts.convert import converted, write_converted
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.reading import Reading
from circuits.prompts.source import find_pairs
from tests.small_tokenizers import Reader, tokenizer

CLEAN, CORRUPTED = "When Mary and John went to the store, John gave a drink to", "When Mary and John went to the store, Mary gave a drink to"  # fmt: skip
LONGER = "When Mary and John went to the the store, Mary gave a drink to"
ROW = {"clean": CLEAN, "corrupted": CORRUPTED, "answers": " Mary", "distractors": " John"}


@pytest.fixture(scope="module")
def model():
    return Reader(tokenizer("byte-level"))


@pytest.fixture(scope="module")
def expected(model):
    return PromptPairs.from_records([ROW], model)


def same(pairs, expected):
    """Whether a model is asked the same, whatever else the files say."""
    return (pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors) == (expected.clean, expected.corrupted, expected.answers, expected.distractors)  # fmt: skip


def token(model, text):
    return model.encode(f"the{text}")[-1]


def csv_line(*cells):
    return ",".join('"' + str(cell).replace('"', '""') + '"' for cell in cells) + "\n"


def csv_text(**columns):
    return csv_line(*columns) + csv_line(*columns.values())


FEATURE_CIRCUITS = {"clean_prefix": CLEAN, "patch_prefix": CORRUPTED, "clean_answer": " Mary", "patch_answer": " John", "case": "x"}  # fmt: skip
AUTO_CIRCUIT = {"clean": CLEAN, "corrupt": CORRUPTED, "answers": [" Mary"], "wrong_answers": [" John"]}
LABELS = ["When", "IO", "and", "S1", "went", "to", "the", "store", ",", "S2", "gave", "a", "drink", "to"]


class TestPublishedForms:
    """Made up in the form of each; no model but its tokenizer is needed."""

    def test_eap_ig_with_ids_of_this_tokenizer(self, model, expected, tmp_path):
        right, wrong = token(model, " Mary"), token(model, " John")
        for name, cells in {"lists": (f"[{right}]", f"[{wrong}]"), "numbers": (right, wrong)}.items():
            path = tmp_path / f"{name}.csv"
            row = dict(zip(("", "clean", "corrupted", "corrupted_hard", "correct_idx", "incorrect_idx"), (7, CLEAN, CORRUPTED, "x", *cells), strict=True))  # fmt: skip
            path.write_text(csv_line(*row) + csv_line(*row.values()))
            pairs = PromptPairs.from_csv(path, model)
            assert same(pairs, expected)
            assert dict(pairs.metadata[0]) == {"corrupted_hard": "x"}
            assert pairs.texts == ((CLEAN, CORRUPTED),)

    @pytest.mark.parametrize(
        "columns", [("country_idx", "corrupted_country_idx"), ("clean_answer_idx", "corrupted_answer_idx")]
    )
    def test_eap_ig_under_its_other_names(self, model, expected, columns):
        ids = dict(zip(columns, (token(model, " Mary"), token(model, " John")), strict=True))
        assert same(PromptPairs.from_records([{"clean": CLEAN, "corrupted": CORRUPTED, **ids}], model), expected)

    def test_eap_ig_with_lists_of_ids_beside_lists_of_text(self, model, expected, tmp_path):
        path = tmp_path / "hypernymy.csv"
        path.write_text(csv_text(clean=CLEAN, corrupted=CORRUPTED, answers="['Mary']", answers_idx=f"[{token(model, ' Mary')}]",
                                 corrupted_answers="['John']", corrupted_answers_idx=f"[{token(model, ' John')}]"))  # fmt: skip
        assert same(PromptPairs.from_file(path, model), expected)

    def test_eap_ig_with_a_label_that_is_a_word(self, model, tmp_path):
        path = tmp_path / "text.csv"
        path.write_text(csv_text(clean=CLEAN, corrupted=CORRUPTED, label=" Mary", pos=-1))
        assert PromptPairs.from_csv(path, model).answers == ((token(model, " Mary"),),)
        path.write_text(csv_text(clean=CLEAN, corrupted=CORRUPTED, label="52"))
        with pytest.raises(PairsError, match=r"line 2: label is '52', a number, .* name the column of the answers"):
            PromptPairs.from_csv(path, model)

    @pytest.mark.parametrize("name", ["test.json", "test.jsonl"])
    def test_feature_circuits_whose_json_lines_are_called_json(self, model, expected, tmp_path, name):
        path = tmp_path / name
        path.write_text((json.dumps(FEATURE_CIRCUITS) + "\n") * 2)
        pairs = PromptPairs.from_file(path, model)
        assert same(pairs[[0]], expected)
        assert [data["case"] for data in pairs.metadata] == ["x", "x"]

    def test_auto_circuit_with_its_words_as_roles(self, model, expected, tmp_path):
        path = tmp_path / "ioi.json"
        words = {"IO": 1, "end": len(LABELS) - 1}
        path.write_text(json.dumps({"seq_labels": LABELS, "word_idxs": words, "prompts": [AUTO_CIRCUIT] * 2}, indent=2))
        pairs = PromptPairs.from_file(path, model)
        assert same(pairs[[0]], expected)
        assert dict(pairs.roles[0]) == {"IO": 2, "end": len(pairs.clean[0]) - 1}  # behind BOS
        assert PromptPairs.from_file(path, model, bos=False).roles[0]["IO"] == 1
        assert PromptPairs.from_records(json.loads(path.read_text()), model).roles == pairs.roles
        assert not pairs.metadata[0]

    def test_auto_circuit_leaves_out_words_that_are_other_tokens_here(self, model, tmp_path):
        path = tmp_path / "ioi.json"
        path.write_text(json.dumps({"seq_labels": LABELS[1:], "word_idxs": {"IO": 1}, "prompts": [AUTO_CIRCUIT]}))
        with pytest.warns(PairsWarning, match="word_idxs are left out"):
            assert not PromptPairs.from_file(path, model).roles[0]

    def test_rome_with_its_subject_as_a_role_and_no_corrupted_prompt(self, model, tmp_path):
        path = tmp_path / "known.json"
        record = {"known_id": 0, "subject": "Mary and John", "attribute": "Mary", "template": "When {} went to the", "prompt": "When Mary and John went to the"}  # fmt: skip
        path.write_text(json.dumps([record]))
        pairs = PromptPairs.from_file(path, model)
        assert pairs.answers == ((token(model, " Mary"),),)
        assert not pairs.has_corrupted
        assert model.tokenizer.decode([pairs.clean[0][pairs.roles[0]["subject"]]]).strip() == "John"
        assert pairs.metadata[0]["known_id"] == 0


class TestChosenColumns:
    def test_a_column_a_constant_and_a_text_with_a_cell(self, model, expected):
        records = [{"prompt": CLEAN, "counter": CORRUPTED, "name": " Mary ", "place": 4}]
        columns = "clean=prompt, corrupted=counter,answers=' {name}',distractors=' John',roles.there=place"
        pairs = PromptPairs.from_records(records, model, columns=parse_columns(columns))
        assert same(pairs, expected)
        assert dict(pairs.roles[0]) == {"there": 4}
        assert not pairs.metadata[0]

    def test_a_clean_prompt_can_take_the_place_of_the_corrupted_one(self, model):
        for record in ({**ROW, "corrupted": LONGER}, {key: value for key, value in ROW.items() if key != "corrupted"}):
            pairs = PromptPairs.from_records([record], model, columns={"corrupted": "clean"})
            assert pairs.clean == pairs.corrupted
            assert pairs.answers == ((token(model, " Mary"),),)

    def test_lists_in_a_cell_become_several_answers(self, model, tmp_path):
        path = tmp_path / "lists.csv"
        path.write_text(csv_text(clean=CLEAN, corrupted=CORRUPTED, words="['Mary', \"John\"]"))
        pairs = PromptPairs.from_csv(path, model, columns={"answers": "' {words}'"})
        assert pairs.answers == ((token(model, " Mary"), token(model, " John")),)

    def test_prompts_of_a_recognised_form_keep_their_names(self, model, expected):
        pairs = PromptPairs.from_records([FEATURE_CIRCUITS], model, columns={"answers": "clean_answer", "distractors": "' John'"})  # fmt: skip
        assert same(pairs, expected)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"answer": "x"}, "columns names the field 'answer', which pairs do not have; did you mean 'answers'?"),
            (
                {"answers": "ansers"},
                "there is no column 'ansers', from which answers should come; did you mean 'answers'?",
            ),
            ({"roles.": "x"}, "columns names the field 'roles.'"),
            ({"answers": ""}, "expected the name of a field and of a column"),
        ],
    )
    def test_columns_that_do_not_exist_are_refused(self, model, columns, message):
        with pytest.raises(PairsError, match=re.escape(message)):
            PromptPairs.from_records([ROW], model, columns=columns)

    @pytest.mark.parametrize("text", ["clean", "clean=", "clean='x", "clean=a,clean=b", "=a", "clean=a answers=b,'"])
    def test_a_text_that_names_no_columns_is_refused(self, text):
        with pytest.raises(PairsError, match=r"--columns"):
            parse_columns(text)

    def test_misspelt_optional_keys_are_not_taken_for_metadata(self, model):
        with pytest.raises(PairsError, match="unknown key 'distractor'; did you mean 'distractors'"):
            PromptPairs.from_records([{**ROW, "distractor": " John", "distractors": None}, {"clean": CLEAN, "corrupted": CORRUPTED, "answers": " Mary", "distractor": " x"}], model)  # fmt: skip

    def test_further_keys_are_metadata_and_are_written_again(self, model, tmp_path):
        pairs = PromptPairs.from_records([{**ROW, "id": 7, "note": {"a": [1, None]}}], model)
        assert dict(pairs.metadata[0]) == {"id": 7, "note": {"a": [1, None]}}
        pairs.to_jsonl(tmp_path / "again.jsonl")
        again = PromptPairs.from_jsonl(tmp_path / "again.jsonl", model)
        assert again == pairs
        assert hash(again) == hash(pairs)
        assert pairs.digest() == PromptPairs.from_records([ROW], model).digest()


class TestRecordsInMemory:
    def test_frames_datasets_tables_and_iterators_give_the_same_pairs(self, model):
        pandas, datasets, pyarrow = (pytest.importorskip(name) for name in ("pandas", "datasets", "pyarrow"))
        records = [
            {**ROW, "answers": [" Mary"], "position": None},
            {**ROW, "answers": [" Mary"], "distractors": None, "position": 3},
        ]
        pairs = PromptPairs.from_records(records, model)
        table = pyarrow.Table.from_pylist(records)

        class Polars:
            """What polars has, without polars."""

            columns = tuple(ROW)

            def __iter__(self):
                raise AssertionError("its columns, not its rows")

            def iter_rows(self, named):
                assert named
                return iter(records)

        for source in (iter(records), pandas.DataFrame(records), datasets.Dataset.from_list(records), table, Polars()):
            assert PromptPairs.from_records(source, model) == pairs
        assert pairs.positions == (len(pairs.clean[0]) - 1, 3)

    @pytest.mark.parametrize("records", [ROW, "pairs.jsonl", 3, [ROW, "x"], [[1]], []])
    def test_anything_else_is_refused(self, model, records):
        with pytest.raises(PairsError, match=r"records"):
            PromptPairs.from_records(records, model)

    def test_tokens_get_their_texts_from_the_model(self, model, expected):
        columns = [list(getattr(expected, name)) for name in ("clean", "corrupted", "answers", "distractors")]
        assert PromptPairs.from_tokens(*columns, model=model) == PromptPairs.from_records([ROW], model, source="tokens")
        assert PromptPairs.from_tokens(*columns).texts == ((None, None),)
        with pytest.raises(PairsError, match="knows ids from 0"):
            PromptPairs.from_tokens([[10**6]], [[1]], [2], model=model)


class TestFiles:
    def test_every_suffix_gives_the_same_pairs(self, model, expected, tmp_path):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        row = {**ROW, "case": "a, b"}
        (tmp_path / "p.csv").write_text("\ufeff" + csv_line(*row) + csv_line(*row.values()) + "\n")
        (tmp_path / "p.tsv").write_text("\t".join(row) + "\r\n" + "\t".join(row.values()))
        (tmp_path / "p.jsonl").write_text(json.dumps(row))
        (tmp_path / "p.json").write_text(json.dumps([row]))
        parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "p.parquet")
        for suffix in ("csv", "tsv", "jsonl", "json", "parquet"):
            pairs = find_pairs(str(tmp_path / f"p.{suffix}"))(model, None, 0)
            assert same(pairs, expected)
            assert dict(pairs.metadata[0]) == {"case": "a, b"}, suffix

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", "clean,clean\n", "line 1: the header has the column 'clean' twice"),
            ("a.csv", "clean,corrupted,answers\na,b\n", "line 2: it has 2 cells, and the header 3"),
            ("a.csv", "clean,corrupted,answers\n", "has no pairs; expected a header and rows"),
            ("a.csv", "clean,corrupted,answers\n" + "x" * 200_000, "field larger than field limit"),
            ("a.csv", b"clean,corrupted\n\xff,b\n", "not UTF-8"),
            ("a.json", "{}", "'clean' is missing; found only the keys (none)"),
            ("a.json", '{"prompts": 3}', "holds 3 (int); expected a list of objects"),
            ("a.json", "[3]", "entry 0: found 3 (int); expected an object"),
            ("a.json", "[1,", "is not JSON"),
            ("a.parquet", b"PAR1PAR1PAR1", "is not Parquet that can be read"),
        ],
    )
    def test_files_that_are_none_are_refused(self, model, tmp_path, name, content, message):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(PairsError, match=re.escape(message)):
            PromptPairs.from_file(path, model)

    def test_no_bos(self, model, expected):
        pairs = PromptPairs.from_records([ROW], model, bos=False)
        assert pairs.clean[0] == expected.clean[0][1:]
        assert pairs.answers == expected.answers


class TestUnfit:
    RECORDS = (ROW, {**ROW, "corrupted": LONGER}, {**ROW, "answers": " drinkstore"}, {**ROW, "corrupted": LONGER}, ROW)

    def test_all_are_counted_by_reason_with_the_first_of_each(self, model):
        with pytest.raises(PairsError) as refused:
            PromptPairs.from_records(self.RECORDS, model)
        message = str(refused.value)
        assert message.startswith(
            "records: 3 of 5 pairs do not fit: 2 of unequal length, the first at record 1: clean has"
        )
        assert "1 with an answer of several tokens, the first at record 2: ' drinkstore' in answers is" in message
        assert message.endswith("skip them with skip_unfit=True (--skip-unfit), and the other 2 are used")

    def test_the_rest_is_used_on_demand(self, model, expected):
        pairs = PromptPairs.from_records(self.RECORDS, model, skip_unfit=True)
        assert pairs == PromptPairs.from_records([ROW, ROW], model)
        assert str(pairs.unfit) == "2 of 5 pairs used; 2 of unequal length, 1 with an answer of several tokens"
        assert pairs.unfit.to_dict()["left_out"] == {"of unequal length": 2, "with an answer of several tokens": 1}
        assert expected.unfit is None

    def test_what_follows_n_does_not_matter(self, model):
        assert len(PromptPairs.from_records([ROW, {"clean": 3}], model, n=1)) == 1
        assert (
            len(PromptPairs.from_records([self.RECORDS[1], ROW, ROW, {"clean": 3}], model, n=2, skip_unfit=True)) == 2
        )

    def test_one_unfit_pair_is_named_as_before(self, model):
        with pytest.raises(PairsError, match=r"^records, record 1: clean has 15 tokens, corrupted 16"):
            PromptPairs.from_records(self.RECORDS[:2], model)

    def test_no_pair_that_fits_is_refused_even_so(self, model):
        with pytest.raises(PairsError, match="2 of 2 pairs do not fit"):
            PromptPairs.from_records([self.RECORDS[1]] * 2, model, skip_unfit=True)

    def test_empty_cells_are_unfit_and_malformed_records_are_not(self, model):
        gap = {**ROW, "answers": None}
        assert (
            str(PromptPairs.from_records([ROW, gap], model, skip_unfit=True).unfit)
            == "1 of 2 pairs used; 1 with an empty cell"
        )
        with pytest.raises(PairsError, match="clean is 3"):
            PromptPairs.from_records([ROW, {**ROW, "clean": 3}], model, skip_unfit=True)


class TestIdsOfAnotherTokenizer:
    def foreign(self, model):
        return {
            "clean": CLEAN,
            "corrupted": CORRUPTED,
            "correct_idx": [token(model, ",")],
            "incorrect_idx": [token(model, "00")],
        }

    def test_answers_that_no_text_holds_are_refused_unless_trusted(self, model):
        records = [self.foreign(model)]
        with pytest.raises(
            PairsError, match=r"nothing shows that the tokenizer of .* made them: at record 0, \d+ would be ','"
        ):
            PromptPairs.from_records(records, model)
        assert PromptPairs.from_records(records, model, trust_ids=True).answers == ((token(model, ","),),)

    def test_a_text_beside_them_is_evidence(self, model):
        record = {**self.foreign(model), "correct_idx": token(model, " 17"), "incorrect_idx": token(model, " 01")}
        with pytest.raises(PairsError, match="nothing shows"):
            PromptPairs.from_records([record], model)
        pairs = PromptPairs.from_records([{**record, "years": ["1700", "01"]}], model)
        assert pairs.answers == ((token(model, " 17"),),)

    def test_prompts_that_read_otherwise_are_refused_unless_trusted(self, model, expected):
        other = Reader(tokenizer("metaspace-first"))
        record = {
            "clean": other.encode(CLEAN),
            "corrupted": other.encode(CORRUPTED),
            "answers": [5],
            "clean_text": CLEAN,
        }
        PromptPairs.from_records([record], other)
        shifted = {
            **record,
            "clean": [i + 1 for i in record["clean"]],
            "corrupted": [i + 1 for i in record["corrupted"]],
        }
        with pytest.raises(PairsError, match=r"in no line does the tokenizer of .* read them as the text beside them"):
            PromptPairs.from_records([shifted], other)
        assert len(PromptPairs.from_records([shifted], other, trust_ids=True)) == 1

    def test_ids_outside_the_vocabulary_are_refused_even_if_trusted(self, model):
        with pytest.raises(PairsError, match="were the ids made with another model's tokenizer"):
            PromptPairs.from_records(
                [{**self.foreign(model), "correct_idx": [10**6]}], model, trust_ids=True, skip_unfit=True
            )


class TestConvert:
    def test_what_was_converted_without_a_model_reads_as_the_file_itself(self, model, tmp_path):
        words = {"IO": 1}
        files = {
            "a.json": json.dumps({"seq_labels": LABELS, "word_idxs": words, "prompts": [AUTO_CIRCUIT]}),
            "b.jsonl": json.dumps(FEATURE_CIRCUITS),
            "c.json": json.dumps([{"subject": "Mary", "attribute": "Mary", "prompt": "When Mary went to the"}]),
        }
        for name, content in files.items():
            path, out = tmp_path / name, tmp_path / f"{name}.out.jsonl"
            path.write_text(content)
            write_converted(converted(path, Reading()), out)
            assert PromptPairs.from_file(out, model) == PromptPairs.from_file(path, model)

    def test_ids_of_nobody_knows_whom_are_refused_unless_trusted(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text(csv_text(clean=CLEAN, corrupted=CORRUPTED, correct_idx="[5]", incorrect_idx="[6]"))
        with pytest.raises(PairsError, match="answers are token ids; name the model"):
            converted(path, Reading())
        assert converted(path, Reading(trust_ids=True)).records[0]["answers"] == [5]


def test_choices_for_files_are_refused_for_a_task(model):
    with pytest.raises(InputError, match="are for files of prompts, not for a task"):
        find_pairs("ioi")(model, 4, 0, reading=Reading(skip_unfit=True))
