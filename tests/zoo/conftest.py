"""A tiny GGUF writer, and a tiny llama model written with it.

The writer is plain on purpose: it also writes what no sane writer would, for the reader to refuse.
"""

import hashlib
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from circuits import zoo
from circuits.zoo import smollm2
from circuits.zoo.entry import Answer, Golden, WheelFile

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    if kind == 8:
        return string(content)
    if kind == 9:
        inner, elements = content
        return struct.pack("<IQ", inner, len(elements)) + b"".join(value(inner, element) for element in elements)
    return struct.pack("<" + CODES[kind], content)


def gguf_bytes(
    metadata: Sequence[tuple[str | bytes, int, Any]] = (),
    tensors: Sequence[tuple[str, Sequence[int], int, bytes]] = (),
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A GGUF file: metadata as (key, type, value), tensors as (name, dimensions, type, data); no padding at the end."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(string(key) + struct.pack("<I", kind) + value(kind, content) for key, kind, content in metadata)
    data = b""
    for name, dimensions, kind, raw in tensors:
        data += b"\0" * (-len(data) % alignment)
        head += string(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        head += struct.pack("<IQ", kind, len(data))
        data += raw
    return head + (b"\0" * (-len(head) % alignment) + data if tensors else b"")


@pytest.fixture(scope="session")
def write() -> Callable[..., bytes]:
    return gguf_bytes


TOKENS = ["<|endoftext|>", "<|im_end|>", "a", "b", "Ġ", "ab", "Ġa", "1", "2"]
GOLDEN = Golden("ab a12", (0, 5, 6, 7, 8), (Answer(" a", 6, 1.5), Answer("b", 3, -0.25)), tolerance=0.02)
WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, MLP_WIDTH, LAYERS = 8, 2, 1, 4, 12, 2


def llama_metadata() -> list[tuple[str, int, Any]]:
    return [
        ("llama.block_count", 4, LAYERS),
        ("llama.context_length", 4, 64),
        ("llama.embedding_length", 4, WIDTH),
        ("llama.feed_forward_length", 4, MLP_WIDTH),
        ("llama.attention.head_count", 4, HEADS),
        ("llama.attention.head_count_kv", 4, KV_HEADS),
        ("llama.rope.freq_base", 6, 10000.0),
        ("llama.rope.dimension_count", 4, HEAD_WIDTH),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5),
        ("llama.vocab_size", 4, len(TOKENS)),
        ("tokenizer.ggml.tokens", 9, (8, TOKENS)),
        ("tokenizer.ggml.token_type", 9, (5, [3, 3, *[1] * (len(TOKENS) - 2)])),
        ("tokenizer.ggml.merges", 9, (8, ["a b", "Ġ a"])),
    ]


def llama_weights() -> dict[str, np.ndarray]:
    """Weights under Hugging Face's names, all different."""
    shapes = {"model.embed_tokens.weight": (len(TOKENS), WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        block = {
            "input_layernorm": (WIDTH,),
            "self_attn.q_proj": (HEADS * HEAD_WIDTH, WIDTH),
            "self_attn.k_proj": (KV_HEADS * HEAD_WIDTH, WIDTH),
            "self_attn.v_proj": (KV_HEADS * HEAD_WIDTH, WIDTH),
            "self_attn.o_proj": (WIDTH, HEADS * HEAD_WIDTH),
            "post_attention_layernorm": (WIDTH,),
            "mlp.gate_proj": (MLP_WIDTH, WIDTH),
            "mlp.up_proj": (MLP_WIDTH, WIDTH),
            "mlp.down_proj": (WIDTH, MLP_WIDTH),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def llama_tensors() -> list[tuple[str, Sequence[int], int, bytes]]:
    """The same weights under GGUF's names, with query and key rows as GGUF orders them."""
    renamed = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    tensors = []
    for name, weight in llama_weights().items():
        if name.startswith("model.layers."):
            layer, inner = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            source = f"blk.{layer}.{renamed[inner]}.weight"
        else:
            source = {"model.embed_tokens.weight": "token_embd.weight"}.get(name, "output_norm.weight")
        if source.endswith(("attn_q.weight", "attn_k.weight")):
            weight = interleaved(weight)
        tensors.append((source, weight.shape[::-1], 0, weight.tobytes()))
    return tensors


def interleaved(weight: np.ndarray) -> np.ndarray:
    """GGUF's row order, spelled out: rows i and i + half of a head become rows 2i and 2i + 1."""
    out, half = np.empty_like(weight), HEAD_WIDTH // 2
    for head in range(len(weight) // HEAD_WIDTH):
        first = head * HEAD_WIDTH
        for pair in range(half):
            out[first + 2 * pair] = weight[first + pair]
            out[first + 2 * pair + 1] = weight[first + half + pair]
    return out


def make_wheel(path: Path, members: dict[str, bytes], member: str) -> WheelFile:
    """A wheel with these members; what is known of it, with `member` the one wanted."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    raw, wanted = path.read_bytes(), members.get(member, b"")
    sums = [hashlib.sha256(content).hexdigest() for content in (raw, wanted)]
    return WheelFile("tiny-model", "0.1", sums[0], len(raw), member, sums[1], len(wanted))


@pytest.fixture(scope="session")
def llama() -> SimpleNamespace:
    """The tiny model: `metadata`, `tensors`, `weights` and `golden`."""
    return SimpleNamespace(metadata=llama_metadata, tensors=llama_tensors, weights=llama_weights, golden=GOLDEN)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no wheel at hand."""
    monkeypatch.setenv(zoo.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(zoo.WHEEL_VARIABLE, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The zoo with the tiny model in place of its default one: `name`, `wheel` (the file) and `source`."""
    wheel = tmp_path / "tiny_model-0.1-py3-none-any.whl"
    members = {"tiny/model.gguf": gguf_bytes(llama_metadata(), llama_tensors()), "tiny/__init__.py": b"1 / 0"}
    source = make_wheel(wheel, members, "tiny/model.gguf")
    monkeypatch.setattr(smollm2, "SOURCE", source)
    monkeypatch.setattr(smollm2, "GOLDEN", GOLDEN)
    return SimpleNamespace(name=smollm2.NAME, wheel=wheel, source=source)


@pytest.fixture(scope="session")
def wheel_writer() -> Callable[..., WheelFile]:
    return make_wheel
