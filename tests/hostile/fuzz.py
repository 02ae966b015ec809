"""Coverage-guided fuzzing of one reader, with atheris (the extra `fuzz`).

    python tests/hostile/fuzz.py READER [--runs 100000] [--seconds 300] [--seed 1]

Half of the files come from libFuzzer's own changes of bytes, half from those of `mutate.py`, which know the format. A file
that makes anything but a refusal, or takes over five seconds, is written to `build/fuzz/READER-crash-…` and ends the run: mend
what it found and put it, made small, into `tests/hostile/test_crashers.py`.
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["circuits", "json", "tomllib", "zipfile"]):
        import circuits.cli
        import circuits.prompts.convert
        import circuits.prompts.pairs
        import circuits.runs.source
        import circuits.zoo.gguf
        import circuits.zoo.wheel  # noqa: F401
        from tests.hostile.readers import READERS
    from tests.hostile.mutate import mutated

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    reader = READERS[given.reader]
    out = ROOT / "build" / "fuzz"
    out.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    corpus = place / "corpus"
    corpus.mkdir()
    for i, data in enumerate(reader.files(place)):
        (corpus / f"example{i}").write_bytes(data)
    path = place / f"file{reader.suffix}"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            reader.read(path)
        except reader.refusals:
            return

    def change(data: bytes, most: int, seed: int) -> bytes:
        if seed % 2:
            return atheris.Mutate(data, most)
        return mutated(data, random.Random(seed), reader.kind)[:most]

    atheris.Setup(
        [sys.argv[0], f"-runs={given.runs}", f"-max_total_time={given.seconds}", f"-seed={given.seed}", "-max_len=20000",
         "-timeout=5", "-rss_limit_mb=3000", f"-artifact_prefix={out}/{given.reader}-", "-verbosity=1", str(corpus)],
        one,
        custom_mutator=change,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    main()
