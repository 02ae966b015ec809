"""All benchmarks of cost, one after the other: `make bench`.

    python benchmarks/bench.py [--only engine acdc …] [--minutes 20] [--device cuda] [--out runs/bench.md] [--list]

Prints a table of the machine, the threads, the versions and the benchmarks, and writes a page that also has what each benchmark
printed. Each runs in a process of its own, and nothing else should run meanwhile. A benchmark that would begin after `--minutes` is
not run, and one that is still running then is stopped; `--minutes 120` is enough for all. `--list` names them. Figures of README and
docs come from such pages; ratios are quoted as ranges over the machines.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS: dict[str, tuple[str, ...]] = {
    "attribution": ("attribution.py",),
    "engine": ("engine.py",),
    "first-result": ("first_result.py",),
    "acdc": ("acdc.py", "small"),
    "long-prompts": ("long_prompts.py", "--tokens", "256", "1024"),
    "places": ("places.py", "cost"),
    "describing": ("describing.py",),
    "export": ("export.py",),
    "memory": ("memory.py",),
    "against-transformer-lens": ("against_transformer_lens.py",),
    "large-circuit": ("large_circuit.py",),
    "certificate": ("certificate.py",),
    "acdc-large": ("acdc.py",),
    "acdc-gemma3": ("acdc.py", "gemma3"),
    "long-prompts-2048": ("long_prompts.py", "--tokens", "2048"),
}
"""The most quoted come first: those behind the time limit are not run."""
NOT_HERE = {
    "against_auto_circuit.py": "needs an environment with auto-circuit (docs/against_auto_circuit.md)",
    "features.py": "needs dictionaries (docs/features.md)",
    "coar.py, coar_edit.py": "hours; accuracy first (docs/coar.md)",
    "verification.py, recall.py": "hours; error rates first (docs/verification.md)",
}
"""Benchmarks whose pages also quote costs, and why they are run by hand."""
PACKAGES = ("mech-circuits", "torch", "transformers", "transformer-lens", "networkx")


def machine(device: str) -> list[str]:
    """The processor, its cores, the memory, the threads, the device, and the versions."""
    cpu = platform.processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    if known.exists():
        names = [
            line.split(":", 1)[1].strip() for line in known.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    threads = os.environ.get("THREADS", "2")
    return [
        f"{cpu}, {os.cpu_count()} processors, {memory:.0f} GiB, {threads} threads, device {device}",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench.md"))
    parser.add_argument("--list", action="store_true", help="name the benchmarks, and run none")
    parser.add_argument("--minutes", type=float, default=20.0, help="when to stop (default: 20)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:25} benchmarks/{' '.join(command)}" for name, command in COMMANDS.items()))
        print("\n".join(f"{name:25} not here: {why}" for name, why in NOT_HERE.items()))
        return 0
    if options.device != "cpu":
        os.environ["DEVICE"] = options.device
    table, outputs, failed = ["| benchmark | seconds | load average | result |", "|---|---|---|---|"], [], []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + 60 * options.minutes
    for name in options.only:
        print(f"{name} …", flush=True)
        start = time.perf_counter()
        result, output = run(COMMANDS[name], end - start)
        if result == "failed":
            failed.append(name)
        load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
        table.append(f"| {name} | {time.perf_counter() - start:.0f} | {load} | {result} |")
        outputs += [f"## {name}", "", "```text", output, "```", ""]
        page = ["# Benchmarks", "", *machine(options.device), "", *table, "", *outputs]
        options.out.write_text("\n".join(page))  # what is done so far stays if the next one is interrupted
    print("\n".join(["", *machine(options.device), "", *table]))
    print(f"written to {options.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def run(command: tuple[str, ...], seconds: float) -> tuple[str, str]:
    """What became of a benchmark, and what it printed."""
    if seconds <= 0:
        return "not run: no time left", ""
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / command[0]), *command[1:]],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        printed = late.stdout or b""
        return "stopped: no time left", printed.decode() if isinstance(printed, bytes) else printed
    return ("failed" if done.returncode else "done"), (done.stdout or "").rstrip()


if __name__ == "__main__":
    sys.exit(main())
