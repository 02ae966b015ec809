"""Seconds by the clock until the first circuit, and of what they consist.

    python benchmarks/first_result.py [--runs 3]

The whole command `circuits discover ioi --n 16 --edges 200` in a new process each time, with the model in the cache; and apart from
it: importing, loading (where the check of the graph is remembered), and the check itself.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

IMPORT = "import circuits; circuits.load_model"
LOAD = "import circuits, time; circuits.load_model; t = time.perf_counter(); circuits.load_model('smollm2-135m'); print(time.perf_counter() - t)"
CHECK = """
import time, circuits
from circuits.engine.check import check
from circuits.engine.hooks import inference_state
model = circuits.load_model('smollm2-135m')
t = time.perf_counter()
with inference_state(model.bridge):
    check(model.architecture, model.name)
print(time.perf_counter() - t)
"""


def clock(command: list[str]) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout or ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    python = [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as place:
        discover = [
            sys.executable,
            "-m",
            "circuits",
            "discover",
            "ioi",
            "--n",
            "16",
            "--edges",
            "200",
            "--overwrite",
            "--out",
            place,
        ]
        clock(discover)  # fetches the model, and remembers the check
        whole = [clock(discover)[0] for _ in range(runs)]
    print("| what | seconds, median | all |\n|---|---|---|")
    rows = {
        "circuits discover ioi --n 16 --edges 200": whole,
        "import": [clock([*python, IMPORT])[0] for _ in range(runs)],
        "load_model, check remembered": [float(clock([*python, LOAD])[1]) for _ in range(runs)],
        "the check, if it is not remembered": [float(clock([*python, CHECK])[1]) for _ in range(runs)],
    }
    for name, seconds in rows.items():
        print(f"| {name} | {statistics.median(seconds):.1f} | {', '.join(f'{s:.1f}' for s in seconds)} |")


if __name__ == "__main__":
    main()
