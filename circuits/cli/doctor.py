"""`circuits doctor`: versions, devices, threads, caches, and what is missing."""

import importlib.util
import os
import shutil
from collections.abc import Iterator

from circuits.cli.terminal import console, table

EXTRAS = {
    "viz": ("pygraphviz", "kaleido"), "ray": ("ray",), "docs": ("mkdocs", "mkdocstrings"), "notebooks": ("ipykernel", "pandas"),
}  # fmt: skip
"""Packages of each extra; those of notebooks are no extra."""
PROGRAMS = {"chromium": "PNG and PDF of heat maps", "pdflatex": "compiling exported TikZ"}


def doctor() -> None:
    """Show versions, devices, threads and caches, and what is missing for each extra."""
    console().print(table("circuits doctor", {"": False, " ": False}, list(_facts()), show_header=False))


def _facts() -> Iterator[tuple[str, str]]:
    import torch

    from circuits import zoo
    from circuits.results.provenance import versions

    yield from versions().items()
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    yield "accelerators", ", ".join(devices) or "none: the CPU is used"
    processors = f"{len(os.sched_getaffinity(0))}" if hasattr(os, "sched_getaffinity") else f"{os.cpu_count()}"
    yield "threads", f"{torch.get_num_threads()} of {processors} processors"
    yield "cache of models", f"{zoo.cache_dir()} ({', '.join(filter(zoo.is_cached, zoo.names())) or 'empty'})"
    yield "Hugging Face hub", "offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") == "1" else "online"
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        install = (
            f"pip install {' '.join(missing)}" if extra == "notebooks" else f"pip install 'mech-circuits[{extra}]'"
        )
        yield f"extra {extra}", f"{', '.join(missing)} missing: {install}" if missing else "complete"
    for program, use in PROGRAMS.items():
        yield program, "found" if shutil.which(program) else f"not found; needed for {use}"
