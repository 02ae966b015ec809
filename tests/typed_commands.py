"""Types commands into one process, one after the other: `python -m tests.typed_commands` reads from standard input, as JSON,

    {"place": a directory, "model": what stands for the default model, "lines": the commands}

and writes `problems.json` into the directory: for each command what was wrong, or null, and `seconds.json`.
"""

import io
import json
import os
import shlex
import subprocess
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from typing import Any

from circuits import model as models
from tests.command import exit_code


def problem_of(line: str) -> str | None:
    """What is wrong with a command: its exit code and what it printed; None: nothing."""
    typed, *piped = line.split(" | ")
    program, *arguments = shlex.split(typed)
    if program != "circuits":
        return f"{program} is not known here"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = exit_code(*arguments, *again(arguments))
        except Exception:
            return traceback.format_exc()
    if code:
        return f"exit code {code}: {out.getvalue()}{err.getvalue()}"
    given = out.getvalue()
    for program in piped:
        done = subprocess.run(shlex.split(program), input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{program}: exit code {done.returncode}: {done.stderr}"
        given = done.stdout
    return None


def again(arguments: list[str]) -> list[str]:
    """What lets a command write what a page before has written."""
    writes = arguments[0] in ("discover", "export") and "--resume" not in arguments
    return ["--overwrite"] if writes else []


def main() -> None:
    asked = json.load(sys.stdin)
    load: Any = models.load_model

    @cache
    def load_narrow(name: Any, **options: Any) -> Any:
        return load(asked["model"] if name == "smollm2-135m" else name, **options)

    models.load_model = load_narrow
    os.chdir(asked["place"])
    problems, seconds = [], {}
    for line in asked["lines"]:
        begun = time.perf_counter()
        problems.append(problem_of(line))
        seconds[line] = round(time.perf_counter() - begun, 2)
    for name, result in (("problems", problems), ("seconds", seconds)):
        with open(f"{name}.json", "w", encoding="utf-8") as file:
            json.dump(result, file, indent=0)


if __name__ == "__main__":
    main()
