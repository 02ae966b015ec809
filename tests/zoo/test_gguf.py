"""The GGUF reader: what it reads is right, and what it refuses it refuses with its own error, at once."""

import math
import os
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import InputError
from circuits.zoo import gguf_values
from circuits.zoo.gguf import GGUF, GGUFError, TensorInfo, read_gguf

Write = Callable[..., bytes]
Read = Callable[[bytes], GGUF]
METADATA = [
    ("u8", 0, 255),
    ("i8", 1, -128),
    ("u16", 2, 65535),
    ("i16", 3, -32768),
    ("u32", 4, 2**32 - 1),
    ("i32", 5, -(2**31)),
    ("f32", 6, 0.5),
    ("yes", 7, True),
    ("no", 7, False),
    ("text", 8, "grüße 🤖"),
    ("u64", 10, 2**64 - 1),
    ("i64", 11, -(2**63)),
    ("f64", 12, math.pi),
    ("no text", 8, ""),
]
ARRAYS = [
    ("many u8", 9, (0, [1, 2, 255])),
    ("many i8", 9, (1, [-1, 2])),
    ("many i32", 9, (5, [-1, 7])),
    ("many f32", 9, (6, [0.5, -1.5])),
    ("many truths", 9, (7, [True, False])),
    ("many texts", 9, (8, ["a", "", "ü"])),
    ("many u64", 9, (10, [2**64 - 1])),
    ("many f64", 9, (12, [math.e])),
    ("none", 9, (4, [])),
    ("nested", 9, (9, [(4, [1, 2]), (8, ["x"]), (9, [(0, [3])])])),
]
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Read these bytes as a file, and every tensor in it."""
    path = tmp_path_factory.mktemp("gguf") / "file.gguf"

    def read_bytes(content: bytes) -> GGUF:
        path.unlink(missing_ok=True)  # a new file: one that is still mapped must not shrink
        path.write_bytes(content)
        result = read_gguf(path)
        for name, info in result.tensors.items():
            assert result.tensor(name).shape == info.shape
        return result

    return read_bytes


@pytest.fixture(scope="module")
def sample(write: Write) -> bytes:
    """A file with every type of value and of tensor."""
    generator = np.random.default_rng(0)
    tensors = [
        ("f32", (3, 2), F32, generator.standard_normal(6).astype("<f4").tobytes()),
        ("f16", (5,), F16, generator.standard_normal(5).astype("<f2").tobytes()),
        ("q4_1", (32, 2), Q4_1, blocks(generator, 2, 4, 16)),
        ("q8_0", (64, 1), Q8_0, blocks(generator, 2, 2, 32)),
        ("scalar", (), F32, struct.pack("<f", 2.5)),
    ]
    return write([*METADATA, *ARRAYS], tensors)


def blocks(generator: np.random.Generator, count: int, halves: int, rest: int) -> bytes:
    """Quantised blocks: `halves` bytes of float16, then random bytes."""
    return b"".join(
        generator.standard_normal(halves // 2).astype("<f2").tobytes() + generator.bytes(rest) for _ in range(count)
    )


def refused(read: Read, content: bytes, message: str) -> GGUFError:
    with pytest.raises(GGUFError, match=message) as caught:
        read(content)
    return caught.value


# What is read is right


def test_every_type_of_value_is_read(read: Read, sample: bytes) -> None:
    result = read(sample).metadata
    for key, _, expected in METADATA:
        assert type(result[key]) is type(expected)
        assert result[key] == expected
    for key, _, (kind, expected) in ARRAYS[:-1]:
        assert len(result[key]) == len(expected)
        assert all(a == b for a, b in zip(result[key], expected, strict=True)), key
        assert isinstance(result[key], list) == (kind == 8)
    first, second, third = result["nested"]
    assert (list(first), second, list(third[0])) == ([1, 2], ["x"], [3])
    assert list(result) == [key for key, _, _ in [*METADATA, *ARRAYS]]


def test_arrays_of_numbers_are_read_only_and_typed(read: Read, sample: bytes) -> None:
    result = read(sample).metadata
    assert [result[key].dtype for key in ("many i8", "many truths", "many u64")] == [np.int8, np.bool_, np.uint64]
    with pytest.raises(ValueError, match="read-only"):
        result["many u8"][0] = 0


def test_every_type_of_tensor_is_unpacked_as_its_definition_says(read: Read, sample: bytes) -> None:
    result = read(sample)
    assert {name: info.shape for name, info in result.tensors.items()} == {
        "f32": (2, 3),
        "f16": (5,),
        "q4_1": (2, 32),
        "q8_0": (1, 64),
        "scalar": (),
    }
    for name, info in result.tensors.items():
        raw = sample[info.offset : info.offset + info.nbytes]
        values = result.tensor(name)
        assert values.dtype == np.float32
        assert values.flags.writeable
        np.testing.assert_array_equal(values.ravel(), np.array(naive(info.type, raw), np.float32))


def naive(kind: str, raw: bytes) -> list[np.float32]:
    """The definitions, value by value, in float32 arithmetic."""
    if kind == "F32":
        return [np.float32(x) for (x,) in struct.iter_unpack("<f", raw)]
    if kind == "F16":
        return [np.float32(x) for (x,) in struct.iter_unpack("<e", raw)]
    result = []
    if kind == "Q8_0":
        for scale, *numbers in struct.iter_unpack("<e32b", raw):
            result += [np.float32(number) * np.float32(scale) for number in numbers]
        return result
    for scale, least, *pairs in struct.iter_unpack("<ee16B", raw):
        nibbles = [pair % 16 for pair in pairs] + [pair // 16 for pair in pairs]
        result += [np.float32(nibble) * np.float32(scale) + np.float32(least) for nibble in nibbles]
    return result


def test_infinities_and_nan_come_out_as_they_are(read: Read, write: Write) -> None:
    halves = struct.pack("<ee", math.inf, math.nan)
    tensors = [("q", (32,), Q4_1, halves + bytes(16)), ("h", (2,), F16, halves)]
    result = read(write([], tensors))
    assert np.isnan(result.tensor("q")).all()
    np.testing.assert_array_equal(result.tensor("h"), np.array([math.inf, math.nan], np.float32))


def test_versions_two_and_three_are_read_alike(read: Read, write: Write) -> None:
    assert [read(write(METADATA, version=version)).version for version in (2, 3)] == [2, 3]


@pytest.mark.parametrize("alignment", [1, 8, 64])
def test_the_alignment_of_the_file_holds(read: Read, write: Write, alignment: int) -> None:
    tensors = [(name, (3,), F16, struct.pack("<3e", *values)) for name, values in (("a", (1, 2, 3)), ("b", (4, 5, 6)))]
    result = read(write([("general.alignment", 4, alignment)], tensors, alignment=alignment))
    np.testing.assert_array_equal(result.tensor("b"), [4, 5, 6])
    assert result.tensors["b"].offset % alignment == 0


def test_padding_after_the_last_tensor_is_optional(read: Read, write: Write) -> None:
    content = write([], [("a", (1,), F32, bytes(4))])
    assert read(content + bytes(28)).tensors == read(content).tensors
    refused(read, content + bytes(29), "29 bytes follow the last tensor")


def test_a_tensor_that_is_not_there_is_named(read: Read, sample: bytes) -> None:
    with pytest.raises(GGUFError, match="none of its 5 tensors is named 'f33'") as caught:
        read(sample).tensor("f33")
    assert caught.value.offset is None


def test_nothing_in_a_read_file_can_be_reassigned(read: Read, sample: bytes) -> None:
    result = read(sample)
    with pytest.raises(AttributeError):
        result.version = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        result.tensors["new"] = result.tensors["f32"]  # type: ignore[index]
    assert isinstance(result.tensors["f32"], TensorInfo)


# What is refused


def test_a_file_truncated_at_any_byte_is_refused(read: Read, sample: bytes) -> None:
    for length in range(len(sample)):
        with pytest.raises(GGUFError):
            read(sample[:length])
    assert read(sample)


def test_an_altered_byte_is_refused_or_read_as_another_value(read: Read, sample: bytes) -> None:
    generator = random.Random(0)
    for at in range(generator.randrange(3), len(sample), 3):
        altered = bytearray(sample)
        altered[at] ^= generator.randrange(1, 256)
        try:
            read(bytes(altered))
        except GGUFError:
            continue


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="not a regular file"):
        read_gguf(tmp_path)
    with pytest.raises(GGUFError, match="cannot be read"):
        read_gguf(tmp_path / "nothing.gguf")
    with pytest.raises(GGUFError, match="null"):
        read_gguf("nu\0ll")
    with pytest.raises(GGUFError, match="cannot be read"):
        read_gguf(tmp_path / ("long" * 1000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this file system")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GGUFError, match="not a regular file"):
        read_gguf(str(tmp_path / "pipe"))


def test_the_error_is_one_of_input_and_says_where(read: Read, write: Write) -> None:
    error = refused(read, b"GGML" + write()[4:], r"file\.gguf: starts with b'GGML'.*\(at byte 0\)")
    assert isinstance(error, InputError)
    assert error.offset == 0
    assert error.path.name == "file.gguf"


@pytest.mark.parametrize(
    ("version", "message"), [(1, "version 1,"), (4, "version 4,"), (3 << 24, r"version \d+ \(a big-endian file\?\)")]
)
def test_other_versions_are_refused(read: Read, write: Write, version: int, message: str) -> None:
    assert refused(read, write(version=version), message).offset == 4


HUGE = 2**64 - 1
TENSOR = ("t", (32,), F32, bytes(128))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([("k", 13, None)], "'k' has the unknown type 13"),
        ([("k", 9, (14, []))], "'k' is an array of the unknown type 14"),
        ([("", 4, 0)], "metadata key '' is empty"),
        ([("k", 4, 0), ("k", 4, 1)], "metadata key 'k' is given twice"),
        ([(b"\xff", 4, 0)], "metadata key is not UTF-8"),
        ([("k", 8, b"ab\xed\xa0\x80")], "'k' is not UTF-8"),
        ([("k" * 65_536, 4, 0)], "65,536 bytes, where at most 65,535"),
        ([("k", 0, 2)], None),
        ([("general.alignment", 4, 0)], "alignment is 0; it must be a power of two"),
        ([("general.alignment", 4, 24)], "alignment is 24"),
        ([("general.alignment", 5, -32)], "alignment is -32"),
        ([("general.alignment", 6, 32.0)], "alignment is 32.0"),
        ([("general.alignment", 7, True)], "alignment is True"),
        ([("general.alignment", 8, "32")], "alignment is of type str"),
        ([("general.alignment", 9, (4, [32]))], "alignment is of type ndarray"),
    ],
)
def test_metadata_that_cannot_be_is_refused(read: Read, write: Write, metadata: list, message: str | None) -> None:
    known = [(key, kind if kind != 13 else 4, content or 0) for key, kind, content in metadata]
    content = write(known)
    if metadata[0][1] == 13:
        content = content[:-8] + struct.pack("<II", 13, 0)
    if message is None:
        assert read(content).metadata == {"k": 2}
    else:
        refused(read, content, message)


def test_a_truth_value_is_zero_or_one(read: Read, write: Write) -> None:
    content = write([("k", 7, True)])
    assert refused(read, content[:-1] + b"\2", "truth value of 2").offset == len(content) - 1
    content = write([("k", 9, (7, [True, True]))])
    assert refused(read, content[:-2] + b"\1\3", "truth value of 3").offset == len(content) - 1


def test_arrays_are_nested_four_deep_and_no_deeper(read: Read, write: Write) -> None:
    def nested(depth: int) -> tuple:
        return (0, [7]) if depth == 1 else (9, [nested(depth - 1)])

    assert read(write([("k", 9, nested(4))])).metadata["k"][0][0][0][0] == 7
    refused(read, write([("k", 9, nested(5))]), "nested over 4 deep")


@pytest.mark.parametrize("dimensions", [(0,), (32, 0), (33,), (16, 2), ()])
def test_quantised_rows_come_in_blocks(read: Read, write: Write, dimensions: tuple[int, ...]) -> None:
    refused(read, write([], [("t", dimensions, Q8_0, bytes(34))]), "empty|in blocks of 32")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("t", (1, 1, 1, 1, 1), F32, bytes(4))], "5 dimensions, where at most 4"),
        ([("t", (32,), 2, bytes(18))], "type 2; these can be read: 0 F32, 1 F16, 3 Q4_1, 8 Q8_0"),
        ([("t", (HUGE, HUGE, HUGE, HUGE), F32, b"")], "more than the file"),
        ([("t", (2**32, 2**32), F32, b"")], "more than the file"),
        ([("t", (40,), F32, bytes(128))], r"ends at byte 224: it is truncated \(at byte 192\)"),
        ([TENSOR, TENSOR], "'t' occurs twice"),
        ([("", (32,), F32, bytes(128))], "no name"),
        ([("n" * 65, (32,), F32, bytes(128))], "65 bytes, where at most 64"),
    ],
)
def test_tensors_that_cannot_be_are_refused(read: Read, write: Write, tensors: list, message: str) -> None:
    refused(read, write([], tensors), message)


@pytest.mark.parametrize("offset", [0, 64, 96, 128 + 32, HUGE])
def test_tensors_follow_one_another(read: Read, write: Write, offset: int) -> None:
    content = write([], [TENSOR, ("u", (32,), F32, bytes(128))])
    at = content.index(struct.pack("<Q", 128))
    error = refused(read, content[:at] + struct.pack("<Q", offset) + content[at + 8 :], "expected 128")
    assert error.offset == at


# Whatever the file says, the time and the memory are bounded


@pytest.mark.parametrize("count", [1, 2**31, 2**63, HUGE])
@pytest.mark.parametrize("place", ["tensors", "entries", "key", "text", "numbers", "texts", "arrays", "dimensions"])
def test_hostile_counts_cost_nothing(read: Read, write: Write, count: int, place: str) -> None:
    many = struct.pack("<Q", count)
    key = struct.pack("<Q", 1) + b"k"
    one = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    content = {
        "tensors": b"GGUF" + struct.pack("<I", 3) + many + bytes(8),
        "entries": b"GGUF" + struct.pack("<IQ", 3, 0) + many,
        "key": one + many,
        "text": one + key + struct.pack("<I", 8) + many,
        "numbers": one + key + struct.pack("<II", 9, 12) + many,
        "texts": one + key + struct.pack("<II", 9, 8) + many,
        "arrays": one + key + struct.pack("<II", 9, 9) + many,
        "dimensions": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + key + struct.pack("<I", count % 2**32 or 9) + bytes(16),
    }[place]
    tracemalloc.start()
    try:
        with pytest.raises(GGUFError):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()


def costly(write: Write) -> dict[str, bytes]:
    """Files of some 30 kB that make as many Python objects as they can."""
    n = 2_000
    return {
        "empty texts": write([("k", 9, (8, [""] * n * 2))]),
        "short texts": write([("k", 9, (8, ["ā"] * n * 2))]),
        "one wide text": write([("k", 8, "a" * n * 15 + "🤖")]),
        "empty arrays": write([("k", 9, (9, [(0, [])] * n))]),
        "short arrays": write([("k", 9, (9, [(0, [1])] * n))]),
        "short lists": write([("k", 9, (9, [(8, ["ab"])] * n))]),
        "entries": write([(f"{index:x}", 0, 1) for index in range(n)]),
        "tensors": write([("general.alignment", 4, 1)], [(f"{i:x}", (1,), F16, bytes(2)) for i in range(n // 2)], 3, 1),
        "a list that fails late": write([("k", 9, (8, ["ab"] * n)), ("k", 0, 0)]),
    }


@pytest.mark.parametrize("name", costly(lambda *_: b""))
def test_memory_stays_below_ten_times_the_file_and_time_below_a_second(read: Read, write: Write, name: str) -> None:
    content = costly(write)[name]
    started = time.process_time()
    outcome(read, content)
    assert time.process_time() - started < 1
    tracemalloc.start()
    try:
        outcome(read, content)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(content)
    finally:
        tracemalloc.stop()


def outcome(read: Read, content: bytes) -> SimpleNamespace:
    """What reading gives, kept alive while memory is measured."""
    try:
        return SimpleNamespace(found=read(content))
    except GGUFError as error:
        return SimpleNamespace(error=str(error))


def test_the_length_of_loops_is_bounded_whatever_the_size_of_the_file(
    read: Read, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_values, "MAX_TURNS", 100)
    assert read(write([("k", 9, (8, ["a"] * 80))]))
    refused(read, write([("k", 9, (8, ["a"] * 101))]), "lists are longer than those of any model")
    refused(read, write([("k", 9, (9, [(0, [])] * 30))]), "lists are longer")
    refused(read, write([(str(index), 0, 0) for index in range(30)]), "lists are longer")
    refused(read, write([], [(str(index), (1,), F32, bytes(4)) for index in range(30)]), "lists are longer")


def test_unpacking_takes_below_ten_times_the_packed_bytes(read: Read, write: Write) -> None:
    content = write([], [("t", (32, 5000), Q4_1, bytes(20 * 5000))])
    result = read(content)
    tracemalloc.start()
    try:
        result.tensor("t")
        assert tracemalloc.get_traced_memory()[1] < 10 * len(content)
    finally:
        tracemalloc.stop()


@given(content=st.binary(max_size=300))
@settings(max_examples=150, deadline=1000)
def test_random_bytes_are_refused(read: Read, content: bytes) -> None:
    for whole in (content, b"GGUF" + content, b"GGUF\3\0\0\0" + content):
        try:
            read(whole)
        except GGUFError:
            continue
        assert whole[:24] == b"GGUF\3" + bytes(19)  # nothing but an empty file happens to be one


@given(
    edits=st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=9), st.integers(0, 9)), min_size=1, max_size=6),
    head=st.sampled_from([True, False]),
)
@settings(max_examples=150, deadline=1000)
def test_random_edits_end_in_a_file_or_in_our_error(
    read: Read, sample: bytes, edits: list[tuple[int, bytes, int]], head: bool
) -> None:
    altered, span = bytearray(sample), 200 if head else len(sample)
    for at, insertion, removed in edits:
        start = at % span
        altered[start : start + removed] = insertion
    try:
        read(bytes(altered))
    except GGUFError:
        return


@given(
    metadata=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda key: key != "general.alignment"),
        st.one_of(
            st.tuples(st.just(8), st.text(max_size=20)),
            st.tuples(st.just(11), st.integers(-(2**63), 2**63 - 1)),
            st.tuples(st.just(12), st.floats(allow_nan=False)),
            st.tuples(st.just(9), st.tuples(st.just(8), st.lists(st.text(max_size=5), max_size=4))),
        ),
        max_size=5,
    )
)
@settings(max_examples=100, deadline=1000)
def test_what_is_written_is_read_back(read: Read, write: Write, metadata: dict) -> None:
    result = read(write([(key, kind, content) for key, (kind, content) in metadata.items()])).metadata
    assert result == {key: content[1] if kind == 9 else content for key, (kind, content) in metadata.items()}
