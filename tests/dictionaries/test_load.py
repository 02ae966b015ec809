"""Files that SAELens, sparsify and circuit-tracer wrote, read back: features and reconstructions as these libraries compute them.

`tests/golden/dictionaries/write.py` wrote the files.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import circuits
from circuits import InputError
from circuits.dictionaries import hub
from circuits.dictionaries.yaml_subset import read_yaml

GOLDEN = Path(__file__).parents[1] / "golden" / "dictionaries"
STATED = {
    "saelens_standard": "mlp_out.1", "saelens_standard_not_centred": "mlp_out.1", "saelens_jumprelu": "resid_post.0",
    "saelens_gated": "attn_out.1", "saelens_topk": "resid_pre.0", "saelens_topk_rescaled": "mlp_out.1",
    "saelens_transcoder": "mlp_in.1->mlp_out.1", "saelens_skip_transcoder": "mlp_in.1->mlp_out.1",
    "saelens_jumprelu_skip_transcoder": "mlp_in.1->mlp_out.1", "saelens_batchtopk": "mlp_out.1", "saelens_matryoshka": "mlp_out.1",
    "sparsify/layers.1": "resid_post.1", "sparsify/layers.1.mlp": "mlp_in.1->mlp_out.1",
}  # fmt: skip
SETS = {f"circuit_tracer_{kind}": "transcoder.1" for kind in ("relu", "jumprelu", "topk")}


@pytest.mark.parametrize(("name", "site"), [*STATED.items(), *SETS.items(), ("gemma_scope", "mlp_out.2")])
def test_features_and_reconstruction_are_those_of_the_library_that_wrote_the_files(name, site):
    directory = GOLDEN / name
    dictionary = circuits.load_dictionary(directory, None if name in STATED else site)
    expected = load_file(directory / "expected.safetensors")
    features = dictionary.encode(expected["x"])
    torch.testing.assert_close(features, expected["features"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dictionary.decode(features, expected["x"]), expected["output"], atol=1e-5, rtol=1e-5)
    assert dictionary.site.name == STATED.get(name, "mlp_in.1->mlp_out.1" if name in SETS else site)
    assert dictionary.model == {"saelens": "tiny-random", "circuit": "org/tiny-random"}.get(name.split("_")[0])
    assert (features != 0).any(0).sum() > 3
    assert (features == 0).any()
    assert (dictionary.skip is not None) == (
        "skip" in name or name in ("circuit_tracer_relu", "circuit_tracer_jumprelu", "sparsify/layers.1.mlp")
    )


def test_the_site_of_the_user_must_be_that_of_the_file():
    with pytest.raises(InputError, match=r"dictionary of mlp_out.1, but the given site is mlp_out.2"):
        circuits.load_dictionary(GOLDEN / "saelens_standard", "mlp_out.2")
    assert circuits.load_dictionary(GOLDEN / "saelens_standard", "blocks.1.hook_mlp_out").site.place == "m1"
    with pytest.raises(InputError, match="give a site"):
        circuits.load_dictionary(GOLDEN / "gemma_scope")
    with pytest.raises(InputError, match="one for each layer"):
        circuits.load_dictionary(GOLDEN / "circuit_tracer_relu")
    with pytest.raises(InputError, match="there is no site"):
        circuits.load_dictionary(GOLDEN / "gemma_scope", "blocks.0.hook_nothing")


def test_one_file_of_a_set_and_one_npz_are_read_by_themselves():
    one = circuits.load_dictionary(GOLDEN / "circuit_tracer_jumprelu" / "layer_0.safetensors", "transcoder.0")
    assert one.activation.name == "jumprelu"
    assert circuits.load_dictionary(GOLDEN / "gemma_scope" / "params.npz", "hook_z.0").site.place == "z0"


def changed(tmp_path: Path, name: str, config: dict | None = None, **tensors: torch.Tensor | None) -> Path:
    """A copy of a golden directory with some of its entries changed."""
    copy = Path(shutil.copytree(GOLDEN / name, tmp_path / "copy"))
    if config is not None:
        path = copy / "cfg.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    file = next(
        path for path in copy.iterdir() if path.suffix == ".safetensors" and path.name != "expected.safetensors"
    )
    weights = load_file(file) | tensors
    save_file({key: value.contiguous() for key, value in weights.items() if value is not None}, file)
    return copy


NAN = torch.full((10,), torch.nan)


@pytest.mark.parametrize(("name", "config", "tensors", "message"), [
    ("saelens_standard", None, {"b_enc": NAN}, "not finite"),
    ("saelens_standard", None, {"b_enc": torch.zeros(9)}, r"b_enc has shape \(9,\)"),
    ("saelens_standard", None, {"W_dec": torch.zeros(10, 5)}, "shape"),
    ("saelens_standard", None, {"W_enc": torch.zeros(60)}, "matrices"),
    ("saelens_standard", None, {"b_dec": None}, "no tensor b_dec"),
    ("saelens_standard", None, {"b_enc": torch.zeros(10, dtype=torch.int64)}, "floating-point"),
    ("saelens_jumprelu", None, {"threshold": torch.zeros(3)}, "threshold has shape"),
    ("saelens_topk", {"k": 11}, {}, "k must be a whole number from 1 to the 10 features"),
    ("saelens_topk", {"k": "3"}, {}, "k must be a whole number"),
    ("saelens_standard", {"normalize_activations": "layer_norm"}, {}, "normalize_activations is 'layer_norm'"),
    ("saelens_standard", {"architecture": "temporal"}, {}, "'temporal' are not supported"),
    ("saelens_standard", {"activation_fn": "tanh-relu"}, {}, "'tanh-relu' is not supported"),
    ("saelens_standard", {"hook_head_index": 2}, {}, "one head alone"),
    ("saelens_standard", {"finetuning_scaling_factor": True}, {}, "finetuning"),
    ("saelens_standard", {"metadata": {"hook_name": "blocks.1.hook_embed"}}, {}, "there is no site"),
    ("saelens_standard", {"metadata": []}, {}, "must be an object"),
    ("saelens_standard", {"apply_b_dec_to_input": 1}, {}, "true or false"),
    ("sparsify/layers.1", {"activation": "groupmax"}, {}, "'groupmax' is not supported"),
])  # fmt: skip
def test_bad_files_are_refused_in_one_line(tmp_path, name, config, tensors, message):
    with pytest.raises(InputError, match=message) as caught:
        circuits.load_dictionary(
            changed(tmp_path, name, config, **tensors), None if "layers" not in name else "resid_post.1"
        )
    assert "\n" not in str(caught.value)


def test_a_checkpoint_whose_scale_is_not_folded_is_refused(tmp_path):
    copy = changed(tmp_path, "saelens_standard")
    (copy / "activation_scaler.json").write_text('{"scaling_factor": 2.0}')
    with pytest.raises(InputError, match="not folded into the weights"):
        circuits.load_dictionary(copy)


def test_pickles_links_and_other_files_are_refused(tmp_path):
    (tmp_path / "sae.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="pickled files"):
        circuits.load_dictionary(tmp_path / "sae.pt", "mlp_out.0")
    with pytest.raises(InputError, match="has no dictionary"):
        circuits.load_dictionary(tmp_path, "mlp_out.0")
    np.savez(tmp_path / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="arrays of a dictionary hold floating-point"):
        circuits.load_dictionary(tmp_path, "mlp_out.0")
    copy = changed(tmp_path, "circuit_tracer_relu")
    (copy / "config.yaml").write_text(
        (copy / "config.yaml").read_text() + "transcoders:\n  - ../../etc/passwd\n  - /etc/passwd\n"
    )
    for layer in (0, 1):
        with pytest.raises(InputError, match="must lie inside the directory"):
            circuits.load_dictionary(copy, f"transcoder.{layer}")
    with pytest.raises(InputError, match="there is none for layer 2"):
        circuits.load_dictionary(copy, "transcoder.2")
    (copy / "config.yaml").unlink()
    (copy / "config.yaml").symlink_to(GOLDEN / "circuit_tracer_relu" / "config.yaml")
    with pytest.raises(InputError, match="leads out of the directory"):
        circuits.load_dictionary(copy, "transcoder.0")
    with pytest.raises(InputError, match="not an id of the Hugging Face Hub"):
        circuits.load_dictionary("../nowhere", "mlp_out.0")


def test_an_archive_must_hold_what_its_headers_state(tmp_path):
    import zipfile

    path = tmp_path / "params.npz"
    np.savez_compressed(path, W_enc=np.zeros((4000, 4000), dtype=np.float32))
    with pytest.raises(InputError, match="claim to unpack"):
        circuits.load_dictionary(path, "mlp_out.0")
    np.save(tmp_path / "W_enc.npy", np.zeros((2, 3), dtype=np.float32))
    raw = (tmp_path / "W_enc.npy").read_bytes().replace(b"(2, 3)", b"(9, 9)")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("W_enc.npy", raw)
    with pytest.raises(InputError, match=r"states the shape \(9, 9\), and has 24 bytes"):
        circuits.load_dictionary(path, "mlp_out.0")


@pytest.mark.parametrize(
    "text", ["a: [1, 2]", "a:\n  b: c", "a: &x 1", "a: !!python/object:os.system x", "- a", "a: 1\na: 2", "a: '1"]
)
def test_only_texts_and_lists_of_texts_are_read_of_yaml(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="line "):
        read_yaml(path)
    path.write_text("---\n# note\na: 'x y'  # why\nb:\n- one\n  - \"two\"\nc: 3\n")
    assert read_yaml(path) == {"a": "x y", "b": ["one", "two"], "c": "3"}


def test_an_id_of_the_hub_downloads_only_what_is_needed(monkeypatch, tmp_path):
    asked = []

    def snapshot(repository, revision, names):
        asked.append((repository, revision, tuple(names)))
        return GOLDEN

    monkeypatch.setattr(
        "circuits.dictionaries.load.fetch", lambda repository, names, revision: snapshot(repository, revision, names)
    )
    assert circuits.load_dictionary("org/name/saelens_topk").site.name == "resid_pre.0"
    assert circuits.load_dictionary("org/name/circuit_tracer_topk", "transcoder.1", revision="v1").n_features == 10
    assert asked[-1] == ("org/name", "v1", ("circuit_tracer_topk/layer_1.safetensors",))
    assert hub.parse_id("hf://org/name/a/b.npz?revision=x") == ("org/name", "a/b.npz", "x")
    with pytest.raises(InputError, match="not an id"):
        circuits.load_dictionary("org/name/../../x")
