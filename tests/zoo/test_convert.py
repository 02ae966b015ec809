"""From GGUF to Hugging Face: the weights, the tokenizer and the configuration of a tiny llama model."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from circuits.errors import ModelError
from circuits.zoo.convert import convert
from circuits.zoo.streaming import write_float32


@pytest.fixture
def converted(tmp_path: Path, write: Callable[..., bytes], llama: SimpleNamespace) -> Callable[..., Path]:
    """Convert the tiny model, with these entries of its metadata changed or, where None, left out."""

    def convert_with(changes: dict | None = None, drop: int = 0, golden: object = llama.golden) -> Path:
        output = tmp_path / "output"
        output.mkdir()
        changed = [(key, kind, (changes or {}).get(key, content)) for key, kind, content in llama.metadata()]
        metadata = [entry for entry in changed if entry[2] is not None]
        (tmp_path / "model.gguf").write_bytes(write(metadata, llama.tensors()[drop:]))
        convert(tmp_path / "model.gguf", output, golden)  # type: ignore[arg-type]
        return output

    return convert_with


def test_the_weights_come_out_under_their_names_with_query_and_key_rows_in_order(
    converted: Callable[..., Path], llama: SimpleNamespace
) -> None:
    result, expected = load_file(converted() / "model.safetensors"), llama.weights()
    assert set(result) == set(expected)
    for name, weight in expected.items():
        np.testing.assert_array_equal(result[name], weight, err_msg=name)
        assert result[name].dtype == np.float32


def test_the_configuration_is_that_of_the_file(converted: Callable[..., Path]) -> None:
    config = json.loads((converted() / "config.json").read_text())
    expected = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "vocab_size": 9,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
    }
    assert {key: config[key] for key in expected} == expected
    assert config["rope_parameters"]["rope_theta"] == 10000.0


def test_the_tokenizer_merges_splits_digits_and_keeps_control_tokens_whole(converted: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.from_file(str(converted() / "tokenizer.json"))
    assert tokenizer.encode("ab a12").tokens == ["ab", "Ġa", "1", "2"]
    assert tokenizer.encode("b 1").tokens == ["b", "Ġ", "1"]
    assert tokenizer.encode("a<|im_end|>b").ids == [2, 1, 3]
    assert tokenizer.decode([5, 6, 7]) == "ab a1"


def test_a_tokenizer_that_gives_other_ids_is_refused(converted: Callable[..., Path], llama: SimpleNamespace) -> None:
    golden = dataclasses.replace(llama.golden, token_ids=(0, 5, 6, 8, 7))
    with pytest.raises(ModelError, match=r"tokenizer turns 'ab a12' into \[5, 6, 7, 8\], expected \[5, 6, 8, 7\]"):
        converted(golden=golden)


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({"llama.embedding_length": None}, 0, "KeyError: 'embedding_length'"),
        ({"tokenizer.ggml.merges": None}, 0, "KeyError"),
        ({"tokenizer.ggml.token_type": (5, [3, 3])}, 0, "ValueError: zip"),
        ({"llama.block_count": 3}, 0, r"9 tensors are missing or not expected, the first blk\.2"),
        ({"llama.block_count": 1}, 0, r"9 tensors are missing or not expected, the first blk\.1"),
        ({}, 1, "1 tensors are missing or not expected, the first token_embd"),
    ],
)
def test_another_kind_of_model_is_refused(
    converted: Callable[..., Path], changes: dict, drop: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        converted(changes, drop)


def test_tensors_written_one_at_a_time_are_those_safetensors_writes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = {
        name: random.standard_normal(shape).astype("f4") for name, shape in {"b": (2, 3), "a": (), "c": (5,)}.items()
    }
    tensors["c"] = tensors["c"][::-1]  # not contiguous
    reports = []
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    write_float32(tmp_path / "ours", shapes, tensors.__getitem__, lambda *report: reports.append(report))
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, tmp_path / "theirs")
    ours, theirs = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
    with safe_open(tmp_path / "ours", "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert reports == [("convert", 24, 48), ("convert", 28, 48), ("convert", 48, 48)]


def test_a_tensor_of_another_shape_than_announced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a has shape \(3,\), announced as \(2,\)"):
        write_float32(tmp_path / "file", {"a": (2,)}, lambda name: np.zeros(3, np.float32))
