"""A byte that was altered, and a file that was cut short, are noticed wherever they are; what is damaged is never used."""

import json
import random
import shutil
import warnings
from contextlib import chdir, suppress
from pathlib import Path

import pytest
import torch

import circuits
from circuits import Circuit, InputError
from circuits.errors import DamageWarning
from circuits.files.checksums import json_sum, sealed, sealed_tensor, unsealed, unsealed_tensor
from circuits.measure.store import Pieces
from circuits.methods.acdc import acdc
from circuits.methods.acdc.record import QUESTION_FILE, STEPS_FILE, SUMS_FILE, EndOfRecordError, Record, Step
from circuits.results.provenance import frozen
from circuits.runs.directory import RunDirectory
from circuits.runs.read import read_run
from tests.command import a_place, command, discover, finished
from tests.faults.killing import files
from tests.tiny_models import random_pairs, tiny

MANIFEST = {"schema": 1, "question": "why"}


def altered(raw, where, draw):
    """Another byte there."""
    return raw[:where] + bytes([raw[where] ^ draw.randrange(1, 256)]) + raw[where + 1 :]


# --- sealed files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor", [torch.rand(3, 4, dtype=torch.float64), torch.ones(5, dtype=torch.uint8), torch.zeros(0)]
)
def test_every_byte_of_a_piece_counts(tensor):
    raw = sealed_tensor(tensor, "key")
    result = unsealed_tensor(raw, "key")
    assert result is not None
    assert torch.equal(result, tensor)
    assert result.dtype == tensor.dtype
    assert sealed_tensor(tensor, "key") == raw
    assert unsealed_tensor(raw, "another") is None
    draw = random.Random(0)
    for where in range(len(raw)):
        for _ in range(8):
            assert unsealed_tensor(altered(raw, where, draw), "key") is None
        assert unsealed_tensor(raw[:where], "key") is None
    assert unsealed_tensor(raw + b"\0", "key") is None


def test_a_sealed_object_is_the_same_in_any_order_and_none_when_altered():
    data = {"b": [1, 2.5, None], "a": {"ü": "text"}}
    assert unsealed(json.loads(json.dumps(sealed(data)))) == data
    assert json_sum(data) == json_sum(dict(reversed(data.items())))
    for wrong in ({**sealed(data), "b": [1, 2.5]}, data, [], None, {**sealed(data), "sha256": "0" * 64}):
        assert unsealed(wrong) is None


# --- pieces -----------------------------------------------------------------------------------------------------------------


def test_a_damaged_piece_counts_as_missing_and_is_told_once(tmp_path):
    pieces = Pieces(tmp_path / "s", MANIFEST)
    for name in "abc":
        pieces.put(name, torch.full((2,), float(ord(name))))
    for name in "ab":
        path = tmp_path / "s" / f"{name}.safetensors"
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.warns(DamageWarning, match=r"a\.safetensors is damaged"):
        assert pieces.get("a") is None
    assert pieces.get("b") is None  # without a further warning
    assert torch.equal(pieces.get("c"), torch.full((2,), 99.0))
    assert pieces.get("d") is None


def test_a_piece_in_the_place_of_another_or_of_another_question_is_noticed(tmp_path):
    Pieces(tmp_path / "s", MANIFEST).put("a", torch.zeros(1))
    shutil.copy(tmp_path / "s" / "a.safetensors", tmp_path / "s" / "b.safetensors")
    with pytest.warns(DamageWarning):
        assert Pieces(tmp_path / "s", MANIFEST).get("b") is None
    (tmp_path / "s" / "manifest.json").unlink()
    with pytest.warns(DamageWarning):
        assert Pieces(tmp_path / "s", {**MANIFEST, "question": "how"}).get("a") is None


def test_a_damaged_manifest_is_an_error_that_says_what_to_delete(tmp_path):
    Pieces(tmp_path / "s", MANIFEST).put("a", torch.ones(1))
    path = tmp_path / "s" / "manifest.json"
    raw, draw = path.read_bytes(), random.Random(0)
    for where in range(len(raw)):
        path.write_bytes(altered(raw, where, draw))
        if raw[where : where + 1] == b" ":
            continue  # other white space is no damage
        with pytest.raises(InputError, match="delete this file"):
            Pieces(tmp_path / "s", MANIFEST)
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(InputError, match="delete this file"):
            Pieces(tmp_path / "s", MANIFEST)
    path.unlink()
    assert torch.equal(Pieces(tmp_path / "s", MANIFEST).get("a"), torch.ones(1))


# --- ACDC's record ----------------------------------------------------------------------------------------------------------


STEPS = [Step(None if i % 3 else "m0", f"a1.h{i}<q>", i / 7, i % 2 == 0) for i in range(12)]


@pytest.fixture
def record(tmp_path):
    """A record of twelve steps in five writes."""
    made = Record(tmp_path / "record", frozen({"method": "acdc"}))
    made.cut(0)
    for first, last in ((0, 1), (1, 4), (4, 5), (5, 9), (9, 12)):
        made.write(STEPS[first:last])
    made.close()
    return tmp_path / "record"


def replayed(folder):
    """The steps that a record gives back, and whether it told of damage."""
    with warnings.catch_warnings(record=True) as outcome:
        warnings.simplefilter("always")
        result = Record(folder, frozen({"method": "acdc"}))
    steps = []
    with suppress(EndOfRecordError):
        while True:
            steps.append(result.next())
    result.close()
    return steps, bool(outcome)


def with_file(record, name, raw):
    """A copy of the record in which that file is another."""
    copy = record.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(record, copy)
    (copy / name).write_bytes(raw)
    return copy


def test_a_record_is_cut_back_in_front_of_the_first_altered_byte(record):
    assert replayed(with_file(record, STEPS_FILE, (record / STEPS_FILE).read_bytes())) == (STEPS, False)
    draw = random.Random(0)
    for name in (STEPS_FILE, SUMS_FILE):
        raw = (record / name).read_bytes()
        lines = raw.splitlines(keepends=True)
        for where in (*range(0, len(raw), 9), len(raw) - 1):
            steps, result = replayed(with_file(record, name, altered(raw, where, draw)))
            assert steps == STEPS[: len(steps)]
            assert (
                len(b"".join(lines[: len(steps) if name == STEPS_FILE else (0, 1, 4, 5, 9, 12).index(len(steps))]))
                <= where
            )
            assert result or where == len(raw) - 1  # a line without its end is what a kill leaves


def test_a_record_cut_short_gives_whole_writes_back(record):
    for name in (STEPS_FILE, SUMS_FILE):
        raw = (record / name).read_bytes()
        for size in range(0, len(raw), 11):
            steps, result = replayed(with_file(record, name, raw[:size]))
            assert steps == STEPS[: len(steps)]
            assert len(steps) in (0, 1, 4, 5, 9)
            assert result or name == SUMS_FILE


def test_a_search_with_a_damaged_record_ends_the_same(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    acdc(model, pairs, 0.1, store=tmp_path / "s")
    whole, draw = files(tmp_path / "s"), random.Random(0)
    for harm in (
        lambda raw: raw[: len(raw) // 2],
        lambda raw: altered(raw, draw.randrange(len(raw)), draw),
        lambda raw: b"",
    ):
        path = tmp_path / "s" / STEPS_FILE
        path.write_bytes(harm(path.read_bytes()))
        with pytest.warns(DamageWarning, match="altered or cut short after"):
            acdc(model, pairs, 0.1, store=tmp_path / "s")
        assert files(tmp_path / "s") == whole
    with (tmp_path / "s" / STEPS_FILE).open("ab") as file:
        file.write(b"as a write that was killed in front of its sum\n")
    acdc(model, pairs, 0.1, store=tmp_path / "s")
    assert files(tmp_path / "s") == whole
    (tmp_path / "s" / SUMS_FILE).unlink()
    acdc(model, pairs, 0.1, store=tmp_path / "s")
    assert files(tmp_path / "s") == whole
    question = tmp_path / "s" / QUESTION_FILE
    question.write_bytes(altered(question.read_bytes(), 40, draw))
    with pytest.raises(
        InputError, match=r"question.json is damaged, or was not written by mech-circuits; delete .*s to start again"
    ):
        acdc(model, pairs, 0.1, store=tmp_path / "s")


def test_a_resumed_command_tells_damage_in_one_line(tmp_path, capsys, monkeypatch):
    a_place(tmp_path / "place")
    coar = ("--method", "coar", "--samples", 48)
    with chdir(tmp_path / "place"):
        with monkeypatch.context() as killed:  # before it had tidied up, and the run is lost
            killed.setattr(RunDirectory, "forget_record", lambda self: shutil.rmtree("RUN"))
            discover(*coar)
        piece = next(Path(".RUN.unfinished").resolve().glob("alpha*batch*"))
        piece.write_bytes(piece.read_bytes()[:-1])
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            discover(*coar, "--resume")
        output = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert output == [f"circuits: {piece} is damaged: it is measured again, and so is every other damaged piece"]


# --- finished runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "place"
    finished(folder, "--method", "eap", "--edges", 12, "--random-circuits", 0)
    return folder


READERS = (
    ("compare", "RUN", "OTHER", "--samples", 0),
    ("export", "RUN", "--out", "c.graphml"),
    ("evaluate", "RUN", "--parts", "scores"),
    ("report", "RUN"),
    ("view", "RUN", "--no-attention"),
)


@pytest.mark.parametrize("name", ["circuit.json", "scores.safetensors", "pairs.jsonl", "run.json"])
def test_an_altered_or_shortened_file_of_a_run_is_refused_by_name(made, tmp_path, capsys, name):
    shutil.copytree(made, tmp_path / "place")
    path = tmp_path / "place" / "RUN" / name
    raw, draw = path.read_bytes(), random.Random(0)
    where = raw.rindex(b"0" if name == "run.json" else raw[-2:-1])  # in run.json not in white space
    with chdir(tmp_path / "place"):
        for harmed in (raw[: len(raw) // 2], raw[:-3], raw[:where] + b"7" + raw[where + 1 :], altered(raw, 0, draw)):
            path.write_bytes(harmed)
            for reader in READERS:
                capsys.readouterr()
                command(*reader, code=2)
                output = capsys.readouterr().err.splitlines()
                assert len(output) == 1
                assert name in output[0]


@pytest.mark.parametrize(
    "name", ["circuit.json", "scores.safetensors", "pairs.jsonl", "circuit.graphml", "config.toml"]
)
def test_a_run_of_which_a_file_is_missing_is_refused_by_name(made, tmp_path, capsys, name):
    shutil.copytree(made, tmp_path / "place")
    shutil.copytree(made / "RUN", tmp_path / "place" / "OTHER")
    (tmp_path / "place" / "RUN" / name).unlink()
    with chdir(tmp_path / "place"):
        for reader in READERS:
            capsys.readouterr()
            command(*reader, code=2)
            output = capsys.readouterr().err.splitlines()
            assert len(output) == 1
            assert f"RUN/{name} is missing" in output[0]
        command("export", "OTHER", "--out", "whole.graphml")


def test_line_ends_and_options_that_were_edited_leave_a_run_readable(made, tmp_path, capsys):
    """Git and editors write CRLF on Windows; results are the same, and so is what is measured."""
    shutil.copytree(made, tmp_path / "place")
    run = tmp_path / "place" / "RUN"
    whole = read_run(run)
    for path in (run / name for name in ("run.json", "circuit.json", "pairs.jsonl", "circuit.graphml", "config.toml")):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_run(run).circuits == whole.circuits
    with chdir(tmp_path / "place"):
        readers = [reader for reader in READERS if reader[0] not in ("compare", "export")]
        command("export", "RUN", "--out", "c.graphml")
        for reader in readers:
            command(*reader)
        assert "was changed since the run was written" not in Path("report.html").read_text()
        for edited, result in (
            (b"# mine\nmethod = 'eap'\n", "This file was changed since the run was written"),
            (b"", "This file was changed since the run was written"),
            (b"\xff\xfe", "cannot be shown"),
        ):
            (run / "config.toml").write_bytes(edited)
            for reader in readers:
                command(*reader)
            assert result in Path("report.html").read_text()
        circuit = run / "circuit.json"
        circuit.write_bytes(circuit.read_bytes().replace(b"\r\n", b"\n").replace(b"1", b"2", 1))
        command("report", "RUN", code=2)


def test_files_of_another_schema_are_refused(made, tmp_path, capsys):
    """As a later version may write them: sealed, with all that this version looks for."""
    shutil.copytree(made, tmp_path / "place")
    with chdir(tmp_path / "place"):
        command("evaluate", "RUN", "--parts", "scores")
        shutil.copytree("RUN", "OTHER")
        for name, readers in (("evaluation.json", READERS[3:4]), ("run.json", READERS)):
            path = Path("RUN", name)
            data = unsealed(json.loads(path.read_text()))
            assert data is not None
            for schema in (7, "1", True, 1.0):
                path.write_text(json.dumps(sealed({**data, "schema": schema})))
                for reader in readers:
                    capsys.readouterr()
                    command(*reader, code=2)
                    line = capsys.readouterr().err
                    assert f"{name} has schema {schema!r}; this version reads schema" in line
            if name == "run.json":
                discover("--method", "eap", "--overwrite", code=2)
                assert "RUN/run.json has schema 1.0" in capsys.readouterr().err
            path.write_text(json.dumps(sealed(data)))


def test_stores_of_another_schema_are_refused(tmp_path):
    Pieces(tmp_path / "s", MANIFEST)
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(sealed({**MANIFEST, "schema": 2})))
    with pytest.raises(InputError, match=r"manifest\.json has schema 2; this version reads schema 1"):
        Pieces(tmp_path / "s", MANIFEST)
    Record(tmp_path / "acdc", frozen({"method": "acdc"})).close()
    question = tmp_path / "acdc" / QUESTION_FILE
    assert json.loads(question.read_text())["schema"] == 1
    question.write_text(json.dumps(sealed({"method": "acdc"})))  # as it was before it said so
    Record(tmp_path / "acdc", frozen({"method": "acdc"})).close()
    question.write_text(json.dumps(sealed({"method": "acdc", "schema": 2})))
    with pytest.raises(InputError, match=r"question\.json has schema 2; this version reads schema 1"):
        Record(tmp_path / "acdc", frozen({"method": "acdc"}))


def test_a_run_without_checksums_is_read(made, tmp_path):
    shutil.copytree(made, tmp_path / "place")
    path = tmp_path / "place" / "RUN" / "run.json"
    data = json.loads(path.read_text())
    assert set(data["files"]) == {
        "pairs.jsonl", "scores.safetensors", "circuit.json", "circuit.graphml", "circuit.html", "config.toml"
    }  # fmt: skip
    del data["sha256"], data["files"]
    path.write_text(json.dumps(data))
    with chdir(tmp_path / "place"):
        for reader in READERS[1:]:
            command(*reader)


def test_figures_may_be_deleted_and_an_evaluation_has_its_own_sum(made, tmp_path):
    shutil.copytree(made, tmp_path / "place")
    (tmp_path / "place" / "RUN" / "circuit.html").unlink()
    with chdir(tmp_path / "place"):
        command("evaluate", "RUN", "--parts", "scores")
        command("report", "RUN")
        evaluation = Path("RUN/evaluation.json")
        raw = evaluation.read_bytes()
        where = raw.index(b'"n_pairs": ') + len(b'"n_pairs": ')
        for harmed in (raw[:-9], raw[:where] + b"7" + raw[where + 1 :], b"null"):
            evaluation.write_bytes(harmed)
            command("report", "RUN", code=2)
        old = json.loads(raw)
        del old["sha256"]
        evaluation.write_text(json.dumps(old))
        command("report", "RUN")
    circuit = Circuit.from_json(tmp_path / "place" / "RUN" / "circuit.json")
    assert circuits.EdgeScores.load(tmp_path / "place" / "RUN" / "scores.safetensors").graph == circuit.graph
