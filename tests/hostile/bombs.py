"""Small files that ask for much: each is read, in one process, and what memory and time it took is told, a JSON line each.

python tests/hostile/bombs.py
"""

import ctypes
import json
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from circuits import Circuit, Graph, PromptPairs
from tests.hostile.readers import READERS, Reader, edge_scores

MOST = 2**20
"""Bytes of a bomb, about."""


def repeated(start: str, middle: str, end: str = "") -> bytes:
    return (start + middle * (MOST // len(middle)) + end).encode()


KEYS = ",".join(f'"{i:x}":1' for i in range(100_000)).encode()
JSON = {
    "empty lists": repeated("[", "[],", "0]"),
    "empty objects": repeated("[", "{},", "0]"),
    "small objects": repeated("[", '{"a":1},', "0]"),
    "short strings": repeated("[", '"ab",', "0]"),
    "numbers": repeated("[", "300,", "0]"),
    "keys": b"{" + KEYS + b"}",
    "keys, the last one twice": b"{" + KEYS + b',"0":1}',
    "lists in lists": b"[" * MOST,
    "objects in objects": repeated("", '{"a":'),
    "digits": b"9" * MOST,
    "digits behind the point": b"[0." + b"3" * MOST + b"]",
    "a long name": b'{"nodes":[{"id":"' + b"a" * MOST + b'"}]}',
    "wide letters": json.dumps({"a": "🙂" * (MOST // 4)}, ensure_ascii=False).encode(),
    "backslashes": b'{"a":"' + b"\\" * MOST + b'"}',
    "white space": b" " * MOST,
    "zeros": b"\0" * MOST,
}


def node_link(**changes: Any) -> dict[str, Any]:
    graph = {"n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "mlps": [True], "parallel": False}
    data: dict[str, Any] = {"directed": True, "multigraph": True, "nodes": [], "edges": []}
    return {**data, "graph": {"schema": 1, "graph": graph, "provenance": {}}, **changes}


def graph_of(n_layers: Any, n_heads: Any, edge: Any = None) -> bytes:
    mlps = [True] * (n_layers if 0 < n_layers < 10**5 else 1)
    graph = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_heads, "mlps": mlps, "parallel": False}
    head = {"schema": 1, "graph": graph, "provenance": {}}
    return json.dumps(node_link(graph=head, edges=[edge] if edge else [])).encode()


def eap_ig(**changes: Any) -> bytes:
    data = {"cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False}, "nodes": {}, "edges": {}}
    return json.dumps({**data, **changes}).encode()


LONG = "a" * MOST
EDGE = {"source": "input", "target": "m0", "key": "in", "score": 1.0}
CIRCUITS = {
    "a source of a megabyte": json.dumps(node_link(edges=[{**EDGE, "source": LONG}])).encode(),
    "a key of a megabyte": json.dumps(node_link(edges=[{**EDGE, "key": LONG}])).encode(),
    "a score of a megabyte": json.dumps(node_link(edges=[{**EDGE, "score": [LONG]}])).encode(),
    "one edge, again and again": json.dumps(node_link(edges=[EDGE] * 15_000)).encode(),
    "a thousand million layers": graph_of(10**9, 8),
    "a thousand million heads": graph_of(8, 10**9),
    "ten thousand layers": graph_of(10_000, 1),
    "layers that are a number of 400 digits": graph_of(10**400, 1),
}
LARGE = {"the largest layer, one edge": graph_of(1, 3600, EDGE), "the largest model, one edge": graph_of(60, 60, EDGE)}
"""Read alone: some of the formats that the others are written in as well hold every edge of the model."""
EAP_IG = {
    "an edge of a megabyte": eap_ig(edges={LONG: {"score": 1.0, "in_graph": True}}),
    "a node of a megabyte": eap_ig(nodes={LONG: {"in_graph": True}}),
    "heads that share one key": eap_ig(
        cfg={"n_layers": 1, "n_heads": 6000, "n_key_value_heads": 1, "parallel_attn_mlp": False}
    ),
    "the largest model, no edge": eap_ig(cfg={"n_layers": 60, "n_heads": 60, "parallel_attn_mlp": False}),
    "many heads": eap_ig(cfg={"n_layers": 200, "n_heads": 200, "parallel_attn_mlp": False}),
}
LINE = {"clean": [1, 2], "corrupted": [1, 3], "answers": [4]}
PROMPTS = {
    "a key of a megabyte": json.dumps({LONG: 1}).encode(),
    "many answers": json.dumps({**LINE, "answers": list(range(150_000))}).encode(),
    "many answers that are distractors": json.dumps(
        {**LINE, "answers": list(range(70_000)), "distractors": list(range(69_999, 140_000))}
    ).encode(),
    "many lines": json.dumps(LINE).encode().join([b"\n"] * 15_000),
    "long prompts": json.dumps({**LINE, "clean": [1] * 10**5, "corrupted": [2] * 10**5}).encode(),
    "many roles": json.dumps({**LINE, "roles": {str(i): 0 for i in range(50_000)}}).encode(),
}


def csv_of(header: str, row: str) -> bytes:
    return repeated(f"{header}\n", f"{row}\n")


CSV = {
    "empty rows": repeated("clean,corrupted,answers\n", ",,\n"),
    "small rows": csv_of("clean,corrupted,answers", "a,b,e"),
    "a header of a megabyte": repeated("clean", ",a"),
    "a row of a megabyte": repeated("clean,corrupted,answers\n", "ab,"),
    "a cell of a megabyte": b"clean,corrupted,answers\nab,cd," + b"e" * MOST,
    "cells in quotes": repeated("clean,corrupted,answers\n", '"a\n",'),
    "a quote that stays open": repeated('clean,corrupted,answers\n"', "a,\n"),
    "a list of a megabyte": csv_of("clean,corrupted,answers", '"[' + "1, " * 6000 + '1]",b,"[' + "1, " * 6000 + '1]"'),
    "brackets": csv_of("clean,corrupted,answers", "a,b," + "[" * 10_000),
    "white space": b" " * MOST,
    "zeros": b"\0" * MOST,
}
AUTO_CIRCUIT = {
    "many words": json.dumps({"word_idxs": {f"{i:x}": 0 for i in range(60_000)}, "prompts": [
        {"clean": "ab", "corrupt": "cd", "answers": [" a"], "wrong_answers": [" b"]}] * 100}).encode(),
    "records of nothing": json.dumps({"prompts": [{}] * 300_000}).encode(),
}  # fmt: skip


def parquet_of(compression: str, n: int) -> bytes:
    """One text again and again, which unpacks to far more than its size."""
    import pyarrow
    from pyarrow import parquet

    out = pyarrow.BufferOutputStream()
    table = pyarrow.table({name: pyarrow.array(["a" * 1000] * n) for name in ("clean", "corrupted", "answers")})
    parquet.write_table(table, out, compression=compression, use_dictionary=compression == "none")
    return out.getvalue().to_pybytes()


PARQUET = {
    "text that unpacks": parquet_of("zstd", 100_000),
    "a dictionary of one text": parquet_of("none", 100_000),
    "zeros": b"PAR1" + b"\0" * MOST + b"PAR1",
    "a footer of a gigabyte": b"PAR1" + b"\0" * 100 + struct.pack("<I", 2**30) + b"PAR1",
}
LONG_PROMPT = {"clean": [12345] * 400_000, "corrupted": [23456] * 400_000}


def edges_of(layers: int, heads: int) -> bytes:
    """All edges of a model, without scores."""
    graph = Graph(layers, heads, heads, (True,) * layers)
    ends = (name.replace("<", ">").replace("->", ">").strip(">").split(">") for name in graph.edges)
    edges = [{"source": source, "target": target, "key": (key or ["in"])[0]} for source, target, *key in ends]
    return json.dumps(node_link(graph={"schema": 1, "graph": graph.to_dict(), "provenance": {}}, edges=edges)).encode()


VALID = {
    "circuit": {"many edges": edges_of(20, 12)},
    "prompts": {
        "many pairs": (json.dumps(LINE) + "\n").encode() * 100_000,
        "many pairs with roles": (json.dumps({**LINE, "roles": {"IO": 0, "S2": 1}}) + "\n").encode() * 60_000,
        "long prompts": json.dumps({**LINE, **LONG_PROMPT}).encode(),
    },
}
"""Larger, so that parsers' own memory counts for little."""
TOML = {
    "dots": b"a." * 30_000 + b"a=1",
    "dots on many lines": b"\n".join(b"a." * 90 + b"a%d=1" % i for i in range(1000)),
    "lists in lists": b"a=" + b"[" * MOST,
    "tables in tables": b"a=" + b"{a=" * 50_000,
    "hexadecimal digits": b"n=0x" + b"f" * 10**5,
    "an option of a megabyte": b"a" * MOST + b"=1",
    "many tables": b"".join(b"[a%d]\n" % i for i in range(30_000)),
}


def safetensors(header: Any, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def scores(**changes: str) -> bytes:
    """Edge scores with another header."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "s"
        edge_scores().save(path)
        data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= changes
    return safetensors(header) + data[8 + length :]


SAFETENSORS = {
    "a header of an exabyte": safetensors({}, 2**60),
    "a header of sixteen exabytes": safetensors({}, 2**64 - 1),
    "a tensor of an exabyte": safetensors({"values": {"dtype": "F64", "shape": [2**57], "data_offsets": [0, 2**60]}}),
    "a shape that overflows": safetensors(
        {"values": {"dtype": "F64", "shape": [2**33, 2**33], "data_offsets": [0, 0]}}
    ),
    "a negative offset": safetensors({"values": {"dtype": "F64", "shape": [1], "data_offsets": [-8, 0]}}),
    "lists in lists": safetensors(b"[" * MOST),
    "a thousand million prompts": scores(n_prompts=str(10**9)),
    "prompts in groups": scores(n_prompts=str(10**9), group=str(10**9)),
    "digits": scores(n_prompts="9" * MOST),
    "empty lists in the provenance": scores(provenance=JSON["empty lists"].decode()),
    "numbers in the provenance": scores(provenance='{"a": [' + "300," * (MOST // 4) + "0]}"),
    "many entries of a header": safetensors({"__metadata__": {f"{i:x}": "" for i in range(400_000)}}),
    "a shape of many numbers": safetensors(
        b'{"a":{"dtype":"F64","shape":[' + b"1," * (2 * MOST) + b'1],"data_offsets":[0,8]}}'
    ),
    "lists in lists in the provenance": scores(provenance='{"a":' + "[" * 500 + "]" * 500 + "}"),
}


def gguf(tensors: int, entries: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + rest


def gguf_value(kind: int, rest: bytes) -> bytes:
    return gguf(0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<I", kind) + rest)


GGUF = {
    "2^60 tensors": gguf(2**60, 0),
    "2^60 entries": gguf(0, 2**60),
    "a string of an exabyte": gguf_value(8, struct.pack("<Q", 2**60)),
    "2^60 strings": gguf_value(9, struct.pack("<IQ", 8, 2**60)),
    "2^60 numbers": gguf_value(9, struct.pack("<IQ", 10, 2**60)),
    "empty strings": gguf_value(9, struct.pack("<IQ", 8, MOST // 8) + b"\0" * MOST),
    "empty lists": gguf_value(9, struct.pack("<IQ", 9, MOST // 12) + struct.pack("<IQ", 0, 0) * (MOST // 12)),
    "lists in lists": gguf_value(9, struct.pack("<IQ", 9, 1) * 50_000),
}

BOMBS: dict[str, dict[str, bytes]] = {
    "circuit": JSON | CIRCUITS, "eap-ig": JSON | EAP_IG, "prompts": JSON | PROMPTS, "prompts-csv": CSV,
    "prompts-json": JSON | PROMPTS | AUTO_CIRCUIT, "prompts-parquet": PARQUET, "labels-json": JSON, "run": JSON,
    "labels": TOML, "config": TOML, "edge-scores": SAFETENSORS, "node-scores": SAFETENSORS, "eap-ig-tensors": SAFETENSORS,
    "piece": SAFETENSORS, "gguf": GGUF, "steps": {"digits": JSON["digits"], "lists": JSON["lists in lists"]},
}  # fmt: skip


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(reader: Reader, path: Path) -> tuple[int, float, bool]:
    """How far resident memory rose, seconds, and whether the file was taken."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, start, taken = status("VmRSS"), time.process_time(), True
    try:
        reader.read(path)
    except reader.refusals:
        taken = False
    return status("VmHWM") - before, time.process_time() - start, taken


def show_circuit(path: Path) -> None:
    circuit = Circuit.from_json(path)
    circuit.to_json(path)
    assert len(circuit) == len(circuit.entries()) == len(circuit.edges) == 1
    assert circuit.nodes == ("input", "m0")


def main() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        for name in BOMBS:  # What is imported late is not theirs.
            for data in READERS[name].files(Path(place)):
                (path := Path(place) / f"file{READERS[name].suffix}").write_bytes(data)
                measured(READERS[name], path)
        alone = {"circuit": Reader(Circuit.from_json, ()), "prompts": Reader(PromptPairs.from_jsonl, ())}
        work = [(name, READERS[name], bombs) for name, bombs in BOMBS.items()]
        work += [("alone", alone[name], files) for name, files in VALID.items()]
        for name, reader, bombs in [*work, ("alone", Reader(show_circuit, ()), LARGE)]:
            for bomb, data in bombs.items():
                (path := Path(place) / f"file{reader.suffix}").write_bytes(data)
                rise, seconds, taken = measured(reader, path)
                result = {
                    "reader": name,
                    "bomb": bomb,
                    "bytes": len(data),
                    "rise": rise,
                    "seconds": seconds,
                    "taken": taken,
                }
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
