"""Model directories that somebody else made: a file that leads elsewhere, waits, or states sizes that nobody has is one clear line."""

import json
import os
import shutil
import signal
import socket
import struct
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import circuits
from circuits import InputError, ModelError
from circuits.cli.models import memory
from circuits.methods.edge_memory import memory_need, read_config
from circuits.model_files import check_directory
from circuits.model_sizes import Budget, built_within, check_config
from tests.command import run
from tests.tiny_models import CONFIGS, random_hf_model

SECONDS = 30
"""Each takes some hundredths of a second; the bound is for a machine under load."""
KINDS = (
    "gpt2",
    "gpt-neo",
    "gpt-j",
    "neox",
    "llama",
    "qwen3",
    "gemma3",
    "opt",
    "bloom",
    "falcon",
    "mixtral",
    "mpt",
    "phi",
)
INDEX = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


@pytest.fixture(autouse=True)
def nobody_waits():
    """A test that waits fails instead."""

    def stop(*_):
        raise TimeoutError(f"no answer after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of tiny models, each written once."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            random_hf_model(kind, torch.float32).save_pretrained(made[kind])
        return made[kind]

    return get


@pytest.fixture
def directory(saved, tmp_path):
    """A copy of a tiny model's directory, and what makes others."""

    def copy(kind="llama"):
        shutil.copytree(saved(kind), tmp_path / kind)
        return tmp_path / kind

    return copy


def sharded(model, form, *names):
    """Replaces a model's one file of weights by an index that names these files, of which the first is there."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    if form == "safetensors":
        save_file(tensors, model / "part.safetensors", metadata={"format": "pt"})
    else:
        torch.save(tensors, model / "part.bin")
    files = [f"part.{form}", *names]
    members = {tensor: files[i % len(files)] for i, tensor in enumerate(tensors)}
    (model / INDEX[form]).write_text(json.dumps({"metadata": {}, "weight_map": members}))


def configure(model, file="config.json", **changes):
    record = json.loads((model / file).read_text()) if (model / file).exists() else {}
    (model / file).write_text(json.dumps(record | changes))


def refused(model, message):
    """One line, soon."""
    start = time.monotonic()
    with pytest.raises(InputError, match=message) as error:
        circuits.load_model(model)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("mpt", {"max_seq_len": 10**9}, "max_seq_len is 1000000000; a model's max_seq_len is at most"),
        ("mpt", {"max_seq_len": -1}, "cannot load"),
        ("llama", {"max_position_embeddings": 2**40}, "is at most"),
        ("llama", {"max_position_embeddings": -1}, "cannot load"),
        ("bloom", {"seq_length": -1}, "cannot load"),
        ("llama", {"num_labels": 10**6}, "num_labels is 1000000"),
        ("llama", {"architectures": 2.5}, "cannot load"),
        ("mixtral", {"num_experts_per_tok": -1}, "cannot load"),
    ],
)
def test_odd_numbers_are_one_line(kind, changes, message, directory):
    model = directory(kind)
    configure(model, **changes)
    refused(model, message)


# What an index names.


@pytest.mark.parametrize("form", INDEX)
def test_an_index_of_files_in_the_directory_loads(directory, form):
    model = directory()
    before = circuits.load_model(model).weights_hash
    sharded(model, form)
    assert circuits.load_model(model).weights_hash == before


@pytest.mark.parametrize("form", INDEX)
@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/dev/zero", "sub/../../x.bin", "..", "a\\..\\x.bin", "C:\\x.safetensors", "", "a\0b"]
)
def test_an_index_that_leads_out_of_the_directory_is_refused(directory, form, name):
    model = directory()
    for outside in ("x.safetensors", "x.bin"):
        shutil.copy(model / "model.safetensors", model.parent / outside)
    sharded(model, form, name)
    refused(model, r"index\.json names .*(inside the directory|expected a file name)")


@pytest.mark.parametrize("form", INDEX)
@pytest.mark.parametrize(
    "weight_map", [None, [], "part.bin", {"a": 5}, {"a": ["part.bin"]}, {"a": {}}, {"a": "config.json"}], ids=str
)
def test_what_is_no_index_is_refused(directory, form, weight_map):
    model = directory()
    sharded(model, form)
    (model / INDEX[form]).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    refused(model, r"index\.json (has no|names)")


def test_an_index_that_names_a_file_that_is_not_there_is_refused(directory):
    model = directory()
    sharded(model, "safetensors", "other.safetensors")
    refused(model, "names other.safetensors, which is not there; is the download complete")


@pytest.mark.parametrize("name", ["../x.safetensors", "/dev/zero"])
def test_a_configuration_that_names_weights_elsewhere_is_refused(directory, name):
    model = directory()
    configure(model, transformers_weights=name)
    refused(model, r"config\.json names .* inside the directory")


def test_a_list_of_tokenizers_that_leads_elsewhere_is_refused(directory):
    model = directory()
    configure(model, "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.4.0.0.json"])
    refused(model, r"tokenizer_config\.json names .* inside the directory")


# What files are.

NAMES = (
    "config.json", "model.safetensors", "pytorch_model.bin", *INDEX.values(), "tokenizer.json", "tokenizer_config.json",
    "generation_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    "additional_chat_templates/a.jinja", "added_tokens.json",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "socket", "link out", "loop"])
def test_a_file_that_is_none_or_leads_elsewhere_is_refused(directory, name, kind, monkeypatch):
    model = directory()
    place = model / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    (outside := model.parent / "outside").write_bytes(b"{}")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "directory":
        place.mkdir()
    elif kind == "socket":
        monkeypatch.chdir(place.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    else:
        place.symlink_to({"link out": outside, "loop": place.name}[kind])
    refused(model, place.name)


def test_links_inside_the_directory_load(directory):
    model = directory()
    (model / "weights").mkdir()
    (model / "model.safetensors").rename(model / "weights" / "a")
    (model / "model.safetensors").symlink_to("weights/a")
    assert circuits.load_model(model).graph.n_layers == 3


def test_a_directory_that_is_a_link_loads(directory):
    (link := directory().parent / "link").symlink_to("llama")
    assert circuits.load_model(link).graph.n_layers == 3


@pytest.mark.parametrize("shared", [False, True], ids=["a repository's blobs", "shared blobs"])
def test_a_snapshot_in_the_cache_of_hugging_face_loads(directory, shared):
    """The layout of `huggingface_hub`: files are links to blobs, and these may be links to blobs that repositories share."""
    model = directory()
    cache = model.parent / "hub"
    snapshot, blobs = (cache / "models--me--tiny" / name for name in ("snapshots/0123abc", "blobs"))
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (cache / "blobs" / "ab").mkdir(parents=True)
    for i, file in enumerate(sorted(model.iterdir())):
        if shared:
            file.rename(cache / "blobs" / "ab" / f"{i}")
            (blobs / f"{i}").symlink_to(f"../../blobs/ab/{i}")
        else:
            file.rename(blobs / f"{i}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    assert circuits.load_model(snapshot).graph.n_layers == 3
    (snapshot / "generation_config.json").unlink()
    (snapshot / "generation_config.json").symlink_to("../../../../outside")
    (model.parent / "outside").write_text("{}")
    refused(snapshot, "outside the directory")


def test_other_files_and_directories_in_a_models_directory_are_left_alone(directory):
    model = directory()
    (model / "onnx").mkdir()
    (model / "README.md").write_bytes(b"\xff")
    (model / "picture.png").symlink_to("/etc/hostname")
    assert circuits.load_model(model).graph.n_layers == 3


# What files say.

DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", INDEX["safetensors"]]
)
@pytest.mark.parametrize("text", [DEEP, "[" * 10**6, "[]", "{", '{"a": 1} x', "\xff"], ids=range(6))
def test_json_that_cannot_be_read_is_refused_with_the_files_name(directory, name, text):
    model = directory()
    (model / name).write_bytes(text.encode("latin-1"))
    refused(model, name)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt", "generation_config.json"])
def test_a_text_of_hostile_size_is_refused(directory, name):
    model = directory()
    with (model / name).open("wb") as file:
        file.truncate(2**36)
    refused(model, f"{name} has 68,719,476,736 bytes")


def test_json_that_would_take_all_memory_is_refused(directory):
    model = directory()
    (model / "tokenizer.json").write_text("[" + "[]," * 2**24 + "0]")
    refused(model, "tokenizer.json: has so many small parts")


def test_an_archive_of_weights_that_would_unpack_to_all_memory_is_refused(directory):
    model = directory()
    (model / "model.safetensors").unlink()
    with zipfile.ZipFile(model / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/data.pkl", bytes(2**25))
    refused(model, "pytorch_model.bin: its [0-9,]+ bytes claim to unpack to 33,554,432")


def test_a_header_of_weights_that_cannot_be_read_is_refused(directory):
    model = directory()
    for data in (b"", struct.pack("<Q", 2**60), struct.pack("<Q", 5) + b"[[[[[", struct.pack("<Q", 2) + b"[]"):
        (model / "model.safetensors").write_bytes(data)
        refused(model, "model.safetensors has no header")


# What configurations state.

HUGE = 10**9
COUNTS = (
    "layer",
    "head",
    "vocab",
    "hidden",
    "embd",
    "d_model",
    "inner",
    "intermediate",
    "ffn",
    "expert",
    "position",
    "head_dim",
)


def sizes_of(model):
    """All sizes in a configuration, by name."""
    record = json.loads((model / "config.json").read_text())
    return [key for key, value in record.items() if type(value) is int and any(part in key for part in COUNTS)]


@pytest.mark.parametrize(
    ("kind", "value"), [*((kind, HUGE) for kind in KINDS), ("gpt2", 2**62), ("llama", 2**62), ("neox", 1e9)]
)
def test_no_size_of_a_configuration_makes_anybody_wait(saved, tmp_path, kind, value):
    """Each is refused, or the model loads as it was: there are sizes that nothing is built of."""
    sizes = sizes_of(saved(kind))
    assert len(sizes) >= 4
    taken = []
    for i, key in enumerate(sizes):
        shutil.copytree(saved(kind), model := tmp_path / str(i))
        configure(model, **{key: value})
        signal.alarm(SECONDS)
        with suppress(ModelError):
            circuits.load_model(model)
            taken.append(key)
    assert set(taken) <= {"max_position_embeddings", "max_window_layers", "max_seq_len", "num_experts_per_tok"}


LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers", "decoder_layers", "num_blocks", "depth")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("inside", [(), ("text_config",), ("llm_config", "text_config")], ids=str)
def test_layers_by_any_name_and_in_any_part_are_bounded(directory, name, inside):
    model = directory()
    changed: dict = {name: HUGE}
    for part in reversed(inside):
        changed = {part: changed}
    configure(model, "config.json", **changed)
    refused(model, rf"{name} is 1000000000; a model's .*{name} is at most 1,000$")


@pytest.mark.parametrize(
    "result",
    [
        {"num_labels": HUGE}, {"num_local_experts": HUGE}, {"n_routed_experts": [4, HUGE]}, {"vocab_size": HUGE},
        {"attention_types": [[["global", "local"], HUGE]]}, {"moe_intermediate_size": HUGE}, {"num_key_value_heads": HUGE},
    ],
    ids=str,
)  # fmt: skip
def test_other_counts_are_bounded(directory, result):
    model = directory()
    configure(model, **result)
    refused(model, f"{next(iter(result))} is 1000000000; a model's")


def test_a_list_of_extra_tokens_is_bounded(directory):
    model = directory()
    configure(model, "tokenizer_config.json", tokenizer_class="ByT5Tokenizer", extra_ids=HUGE)
    refused(model, "extra_ids is 1000000000")


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("gpt2", {"n_embd": 4098}),
        ("gpt2", {"n_layer": 1000}),
        ("gpt2", {"n_inner": 2**20}),
        ("gpt2", {"n_positions": 2**25}),
        ("gpt-neo", {"max_position_embeddings": 2**25}),
        ("llama", {"intermediate_size": 2**20}),
        ("llama", {"hidden_size": 8192}),
        ("llama", {"vocab_size": 2**25}),
        ("llama", {"num_hidden_layers": 999}),
        ("mixtral", {"num_local_experts": 2**19}),
        ("mpt", {"n_layers": 1000, "d_model": 2048}),
        ("bloom", {"n_layer": 900}),
        ("opt", {"ffn_dim": 2**20}),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_configuration_whose_parameters_could_not_come_from_the_files_is_refused(directory, kind, result, form):
    """Numbers that models do have, but not one whose files are so small."""
    model = directory(kind)
    if form == "bin":
        torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
        (model / "model.safetensors").unlink()
    configure(model, **result)
    refused(model, r"cannot come from its files \(the weight files hold at most [\d,]+ numbers")


def test_tables_that_no_file_holds_are_refused(directory):
    """GPT-J keeps a table of positions in each layer, which is no weight."""
    model = directory("gpt-j")
    configure(model, n_positions=2**26)
    refused(model, "tables of over [0-9,]+ bytes, .* cannot come from its files")


def test_an_index_counts_all_its_files(directory):
    model = directory()
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = list(tensors)
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, model / f"{i}.safetensors", metadata={"format": "pt"})
    members = {name: f"{i % 2}.safetensors" for i, name in enumerate(names)}
    (model / INDEX["safetensors"]).write_text(json.dumps({"metadata": {}, "weight_map": members}))
    assert circuits.load_model(model).graph.n_layers == 3
    configure(model, num_hidden_layers=999)
    refused(model, f"hold at most {sum(t.numel() for t in tensors.values()):,} numbers in {len(tensors)} tensors")


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_architecture_is_within_its_own_budget(directory, kind):
    """Loaded from files, where it is so small that all that is spare would not help: the count itself is tested."""
    from circuits.model_files import read_small, weights_in

    model = directory(kind)
    config = read_small(model / "config.json")
    weights = weights_in(model, config)
    assert weights is not None
    exact = Budget(kind, weights.tensors * 8, weights.parameters * 2)
    with torch.device("meta"), built_within(exact):
        random_hf_model_without_weights(model)


def random_hf_model_without_weights(model):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def test_what_other_threads_build_is_not_counted():
    """A budget is the thread's own, and gone afterwards."""
    problems = []

    def build():
        try:
            with torch.device("meta"):
                torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(20)])
        except ModelError as problem:
            problems.append(problem)

    with built_within(Budget("a", parts=5)):
        (thread := threading.Thread(target=build)).start()
        thread.join()
        with pytest.raises(ModelError, match="over 5 modules"):
            torch.nn.Sequential(*[torch.nn.Linear(2, 2, device="meta") for _ in range(20)])
    build()
    assert problems == []


REAL = {
    "max_position_embeddings": 10**7, "rope_theta": 5 * 10**8, "num_train_steps": 10**7, "n_params": 10**12, "vocab_size": 300_000,
    "num_experts": 16384, "ngram_vocab_size_base": 2 * 10**7, "time_step_limit": [0.0, float("inf")], "eos_token_id": [200_020],
    "hidden_size": 53_248, "num_hidden_layers": 150, "sliding_window": 2**31, "image_size": 4096, "train_tokens": 15 * 10**12,
}  # fmt: skip


def test_numbers_that_models_do_have_are_not_refused():
    check_config(REAL | {"text_config": REAL}, "config.json")


def test_a_configuration_with_numbers_that_are_not_finite_loads(directory):
    """Mamba 2's has; transformers reads them."""
    model = directory()
    configure(model, time_step_limit=[0.0, float("inf")])
    check_directory(model)
    assert circuits.load_model(model).graph.n_layers == 3


# Every command that takes a model.


COMMANDS = {
    "discover": "discover PAIRS --model MODEL --method eap --out RUN",
    "tasks check": "tasks check ioi --model MODEL",
    "tasks --examples": "tasks --examples --model MODEL",
    "study run": "study run STUDY --out RUN",
}
FAULTS = {"index": "names '../x.safetensors'", "layers": "n_layer is 1000000000", "pipe": "config.json is a pipe"}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_with_one_line(directory, command, fault, monkeypatch, capsys):
    model = directory("gpt2")
    if fault == "index":
        sharded(model, "safetensors", "../x.safetensors")
    elif fault == "layers":
        configure(model, n_layer=HUGE)
    else:
        (model / "config.json").unlink()
        os.mkfifo(model / "config.json")
    pair = {"clean": [3, 4], "corrupted": [3, 5], "answers": [6], "distractors": [7]}
    (model.parent / "PAIRS").write_text(json.dumps(pair) + "\n")
    (model.parent / "STUDY").write_text(
        f'models = ["{model}"]\ntasks = ["PAIRS"]\nn = 1\nseeds = [0]\n[methods.eap]\nedges = 3\n'
    )
    here = {name: str(model.parent / name) for name in ("PAIRS", "STUDY", "RUN")} | {"MODEL": str(model)}
    code = run(monkeypatch, [here.get(word, word) for word in COMMANDS[command].split()])
    output = capsys.readouterr()
    result = " ".join((output.out + output.err).split())
    assert FAULTS[fault] in result
    assert "Traceback" not in result
    assert code == (3 if command == "study run" else 2)


def test_the_memory_of_a_model_is_not_told_of_what_cannot_be_read(directory):
    model = directory("gpt2")
    assert memory_need(read_config(str(model)), tokens=3).graph.n_layers == 3
    configure(model, n_layer=HUGE)
    with pytest.raises(ModelError, match="n_layer is 1000000000"):
        read_config(str(model))
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    with pytest.raises(ModelError, match=r"config\.json is a pipe"):
        memory(str(model))


def test_the_golden_models_load():
    golden = Path(__file__).parents[1] / "golden"
    for model in sorted(golden.glob("*/model")):
        assert circuits.load_model(model).graph.n_layers == 2
