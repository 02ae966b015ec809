"""All benchmarks of cost, one after the other: `make bench`.

    python benchmarks/bench.py [--only engine acdc …] [--out runs/bench.md] [--list]

Writes one page: the machine, the versions, and what each benchmark printed. Each runs in a process of its own, and nothing else
should run meanwhile. All of them take about an hour on two cores; `--list` names them. Figures of README and docs come from such
pages.
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
    "places": ("places.py", "cost"),
    "acdc": ("acdc.py",),
    "against-transformer-lens": ("against_transformer_lens.py",),
    "describing": ("describing.py",),
    "certificate": ("certificate.py",),
    "memory": ("memory.py",),
    "large-circuit": ("large_circuit.py",),
    "export": ("export.py",),
}
PACKAGES = ("mech-circuits", "torch", "transformers", "transformer-lens", "networkx")


def machine() -> list[str]:
    """The processor, its cores, the memory, the threads, and the versions."""
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
        f"{cpu}, {os.cpu_count()} processors, {memory:.0f} GiB, {threads} threads",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench.md"))
    parser.add_argument("--list", action="store_true", help="name the benchmarks, and run none")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:15} benchmarks/{' '.join(command)}" for name, command in COMMANDS.items()))
        return 0
    page, failed = ["# Benchmarks", "", *machine(), ""], []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        print(f"{name} …", flush=True)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(HERE / COMMANDS[name][0]), *COMMANDS[name][1:]],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            failed.append(name)
        output = done.stdout.rstrip() + ("\n" + done.stderr.rstrip() if done.returncode else "")
        load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
        page += [
            f"## {name} ({time.perf_counter() - start:.0f} s, load average {load})",
            "",
            "```text",
            output,
            "```",
            "",
        ]
        options.out.write_text("\n".join(page))  # what is done so far stays if the next one is interrupted
    print(f"written to {options.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
