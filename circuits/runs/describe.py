"""`circuits describe`: the description of a run's circuit, written into its directory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from circuits.descriptions.describe import describe
from circuits.descriptions.description import SCHEMA, Description
from circuits.errors import InputError, refusing
from circuits.files.atomic import check_writable, write_text
from circuits.files.checksums import read_sealed, sealed_json
from circuits.files.locks import sole_writer
from circuits.files.untrusted import check_plain, check_schema
from circuits.model import Model
from circuits.progress import StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.results.naming import clean
from circuits.runs.files import DESCRIPTION_FILE, LABELS_FILE
from circuits.runs.read import Run, read_run


@contextlib.contextmanager
def describing(path: str | Path) -> Iterator[Run]:
    """A run to be described; in this block no other process writes into its directory.

    Raises:
        InputError: see `read_run`; or the run has no circuit, the directory cannot be written to, or another process writes to it.
    """
    with sole_writer(path):
        run = read_run(path)
        if not run.circuits:
            raise InputError(
                f"{path} has scores of nodes and no circuit; describe a run of a method that chooses edges"
            )
        with refusing(f"write to {path}"):
            check_writable(run.path / DESCRIPTION_FILE)
        yield run


def describe_run(
    run: Run,
    model: Model,
    pairs: PromptPairs,
    *,
    seed: int = 0,
    draws: int = 19,
    tests: bool = True,
    stage: StageProgress = silent,
) -> Description:
    """Describes a run's circuit; writes `description.json` and `labels.json` into its directory.

    Args:
        run: from `describing`.
        model: the run's model.
        pairs: the run's pairs.
        seed, draws, tests, stage: see `circuits.describe`.

    Raises:
        InputError: the model is not the run's.
    """
    if model.weights_hash != run.provenance.get("weights_sha256"):
        raise InputError(f"{model.name} is not the model of {run.path}: its weights differ")
    (circuit,) = (circuit.without_places() for circuit in run.circuits.values())
    made = describe(model, pairs, circuit, seed=seed, draws=draws, tests=tests, stage=stage)
    write_text(run.path / DESCRIPTION_FILE, sealed_json(made.to_dict(), indent=1) + "\n")
    made.save_labels(run.path / LABELS_FILE)
    return made


def read_description(path: str | Path) -> dict[str, Any] | None:
    """A run's description as JSON values, with clean texts; None if the run was not described.

    Raises:
        InputError: the file was altered or has another form.
    """
    file = Path(path) / DESCRIPTION_FILE
    if not file.is_file():
        return None
    data = read_sealed(file)
    if data is None:
        raise InputError(f"{file} is damaged; delete it, or describe the run again")
    check_schema(data.get("schema"), SCHEMA, str(file))
    data = check_plain(data, str(file))
    try:
        for line in data["lines"]:
            clean(line["node"], "a node")
            line["label"] = "" if line.get("label") is None else clean(line["label"], "a label")
            line["text"] = " ".join(str(line["text"]).split())
        for test in data["tests"]:
            clean(test["node"], "a node")
            test.update({name: float(test[name]) for name in ("effect", "stderr") if test[name] is not None})
            test["statement"], test["outcome"] = (
                " ".join(str(test[name]).split()) for name in ("statement", "outcome")
            )
        data["unsaid"] = [" ".join(str(text).split()) for text in data["unsaid"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(f"{file} is not a description of a run; describe the run again") from None
    return data
