"""Do two checkouts give the same results, to the last byte? For changes that are to change nothing.

    python benchmarks/same_results.py OLD NEW

Every method runs through the command line on two compiled models, with and without its options; then a study of three methods.
Compared are `scores.safetensors`, `circuit.json`, `circuit.graphml`, `steps.jsonl` and `config.toml` of every run, what `--json` prints, and
the study's table.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, redirect_stdout
from pathlib import Path

TASKS = ("compiled/and-gate", "compiled/induction")
EDGES = (
    "--method eap --edges 6",
    "--method eap-ig --edges 6 --steps 3 --quadrature right",
    "--method eap-ig --threshold 0.01 --by signed",
    "--method eap-ig --edges 6 --refine node --refine-top 5",
    "--method eap-ig --edges 6 --select positive-share --share 0.25 --fill",
    "--method edge-attribution --gradient relp --attention detached --edges 6 --select greedy",
    "--method edge-attribution --gradient conductance --edges 5 --select optimal",
    "--method edge-attribution --gradient clean-corrupted --edges 5 --metric log_probability",
    "--method information-flow --edges 6",
    "--method exact-edges --edges 6 --ablation mean",
    "--method acdc --threshold 0.05",
    "--method acdc --threshold inf --absolute",
    "--method acdc --edges 6 --no-reader-tests",
    "--method acdc --threshold 0.05 --order eap --start-layer 1",
    "--method edge-pruning --edges 6 --steps 5 --learning-rate 0.1",
    "--method eap --edges 6 --ablation gaussian --seed 3",
    "--method eap-ig --edges 9 --positions spans --destinations",
    "--method exact-edges --edges 9 --positions spans --destinations",
    "--method acdc --threshold 0.05 --positions spans",
    "--method eap --edges 6 --ablation resample --random-circuits 2",
    "--method gim --edges 6 --q-scale 0.5",
    "--method ensemble --gradients ig,relp --edges 6 --how rank-mean",
    "--method ugs --edges 6 --steps 5",
)
NODES = (
    "--method activation-patching",
    "--method activation-patching --positions each --nodes heads --direction noising --one-length",
    "--method activation-patching --nodes mlps --window 2",
    "--method attribution-patching --nodes heads+mlps+input",
    "--method atp-star",
    "--method atp-star --no-qk-fix --no-grad-drop --positions all",
    "--method path-patching --receivers logits",
    "--method path-patching --receivers logits --senders heads --mlps live --together",
    "--method direct-effects",
    "--method direct-effects --positions each --one-length",
    "--method coar --samples 40",
    "--method coar --samples 40 --alpha 0.3 --fit ridge --nodes heads",
)
STUDY = """
models = ["compiled/and-gate"]
tasks = ["compiled/and-gate"]
n = 6
seeds = [0, 1]
[methods.eap-ig]
edges = 5
[methods.coar]
samples = 30
[methods.acdc]
threshold = 0.05
[evaluation]
parts = ["faithfulness", "stability"]
random_circuits = 3
"""
COMPARED = (
    "scores.safetensors",
    "circuit.json",
    "circuit.graphml",
    "steps.jsonl",
    "config.toml",
    "stdout",
    "table.csv",
    "code",
)


def commands() -> dict[str, list[str]]:
    result = {}
    for task in TASKS:
        for options in (*EDGES, *NODES):
            asked = f"discover {task} --model {task} --n 6 --json {options}".split()
            result[f"{task} {options}".replace("/", "-").replace(" ", "_")] = asked
    return result


def make(place: Path) -> None:
    """All commands, with the `circuits` that this process imports; their files under `place`."""
    from circuits.cli import _performed

    def perform(*asked: str) -> str:
        sys.argv = ["circuits", *asked]
        return str(_performed())

    for name, asked in commands().items():
        with chdir(_made(place / name)), Path("stdout").open("w") as out, redirect_stdout(out):
            Path("code").write_text(perform(*asked, "--out", "run"))
    with chdir(_made(place / "study")):
        Path("study.toml").write_text(STUDY)
        perform("study", "run", "study.toml", "--out", "s")
        perform("study", "table", "s", "--out", "table.csv")


def run(checkout: Path, place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, __file__, "--make", place], cwd=checkout, env=environment, check=True)


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def kept(place: Path) -> dict[str, bytes]:
    """The files that are compared, by where they lie; those inside the study's directory have names that change with the version."""
    result = (path.relative_to(place) for path in sorted(place.rglob("*")) if path.is_file() and path.name in COMPARED)
    contents = {path: (place / path).read_bytes() for path in result if path.parts[:2] != ("study", "s")}
    # The order of options in a file says nothing.
    return {
        str(path): b"".join(sorted(raw.splitlines(True))) if path.suffix == ".toml" else raw
        for path, raw in contents.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs="*", metavar="OLD NEW")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make is not None:
        make(given.make)
        return 0
    if len(given.checkouts) != 2:
        parser.error("give two checkouts")
    with tempfile.TemporaryDirectory() as directory:
        places = [Path(directory) / name for name in ("old", "new")]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run, [one.resolve() for one in given.checkouts], places))
        old, new = map(kept, places)
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    print(f"{len(old)} files, {len(differing)} of them differ")
    print("\n".join(differing))
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
