"""A study file: models, tasks, methods and seeds, and how runs are evaluated.

```toml
models = ["smollm2-135m"]           # names, Hugging Face ids, or directories
tasks = ["ioi", "pairs.jsonl"]      # tasks, or files of prompt pairs (of which the first n are taken, whatever the seed)
n = 32                              # pairs of each task
seeds = [0, 1]                      # random seeds of the pairs and of the runs

[methods.eap-ig]                    # a method with its options, as in `circuits discover`
steps = 10

[methods.acdc-loose]                # a method that is used twice gets labels of your own
method = "acdc"
threshold = 0.1

[evaluation]                        # what `circuits evaluate` measures of every run; leave it out for no evaluation
parts = ["faithfulness", "curves"]
```

Optional: `metrics` and `ablations` (lists; every run is made with each; default: the metric that the task prefers, the method's
own ablation), `reference` (a file of pairs: what the ablations `mean`, `mean_positional` and `optimal` are computed on), `columns`,
`skip-unfit`, `trust-ids`, `bos`, `first-token` and `align` (how files of pairs are read, as by the options of `circuits discover`), `dtype`, `device`, `device-map`, `revision`, `batch-size`, `threads` (per operation; default 1), `checkpoints` (each
model at several stages of its training: directories in the model's directory, or revisions of a Hugging Face model), and `[[leave-out]]`
tables, each with some of `model`, `task` and `method` (the label): combinations to leave out. `-` and `_` are the same in all keys;
paths are relative to the study file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from circuits.engine.dtypes import check_dtype
from circuits.errors import InputError
from circuits.files.untrusted import check_plain, parse_toml, read_text
from circuits.methods.catalogue import MEANS, check_known, declared
from circuits.methods.options import Kind, Option
from circuits.prompts.source import Source, find_pairs, names_file
from circuits.runs.parts import USUAL, check_parts
from circuits.study.request import Request, Study, files_of, is_file, reading_of

LARGEST_SEED = 2**63 - 1
MOST_THREADS = 1024
READING = {"columns": None, "skip_unfit": False, "trust_ids": False, "bos": True, "first_token": False, "align": None}
"""How files of pairs are read: keys of a study file, and their defaults."""
MOST_RUNS = 100_000
"""Runs of one study."""


def read_study(path: str | Path) -> Study:
    """Reads a study file, and checks everything that can be checked before a model is loaded.

    Raises:
        InputError: it cannot be read, is not TOML, or asks for something that does not exist.
    """
    path = Path(path)
    return parse_study(read_text(path), str(path), path.absolute().parent)


def parse_study(text: str, name: str = "the study", base: Path | None = None, check_tasks: bool = True) -> Study:
    """See `read_study`.

    Args:
        text: the text of a study file.
        name: its name in error messages.
        base: the directory that file names are relative to; None: the current one.
        check_tasks: whether tasks, built models and files must exist.
    """
    base = Path.cwd() if base is None else base
    given = check_plain(parse_toml(text, name), name)
    return Study(_Reader(name, base, check_tasks).requests(given), text, base)


@dataclass(frozen=True)
class _Place:
    """A model as it is given, and where its weights are."""

    given: str
    model: str
    revision: str | None


@dataclass(frozen=True)
class _Reader:
    """Turns a file's values into requests; error messages name the file and the key."""

    name: str
    base: Path
    check_tasks: bool

    def requests(self, given: Mapping[str, Any]) -> tuple[Request, ...]:
        top = self.known(
            given,
            ("models", "tasks", "n", "one_length", "seeds", "metrics", "ablations", "methods", "evaluation", "dtype", "device",
             "device_map", "revision", "checkpoints", "batch_size", "threads", "leave_out", "reference", *READING), "",
        )  # fmt: skip
        for needed in ("models", "tasks", "methods"):
            if needed not in top:
                raise self.error(needed, "is missing")
        models, tasks = self.names(top, "models"), self.names(top, "tasks")
        seeds = self.numbers(top, "seeds", [0])
        metrics, ablations = (self.names(top, key) if key in top else [None] for key in ("metrics", "ablations"))
        methods = self.methods(top["methods"])
        left_out = self.left_out(top.get("leave_out", []), models, tasks, [label for label, _, _ in methods])
        common = {
            "n": self.number(top, "n", 64), "batch_size": self.number(top, "batch_size", None),
            "threads": self.number(top, "threads", 1, MOST_THREADS), "evaluation": self.evaluation(top.get("evaluation"), tasks),
            **{key: self.text(top, key) for key in ("dtype", "device_map")}, "device": self.text(top, "device") or "auto",
            "base": str(self.base), "one_length": self.flag(top, "one_length"),
        }  # fmt: skip
        for what, asked in (("metric", metrics), ("ablation", ablations)):
            with self.refusing(f"{what}s"):
                for one in asked:
                    check_known(what, one)
        readings = self.readings(top, tasks)
        self.check_reference(top, methods, ablations)
        self.check_placement(models, common["dtype"], common["device"], common["device_map"])
        sources = [self.source(task) for task in tasks] if self.check_tasks else []
        places = self.places(top, models)
        for at in places if self.check_tasks else ():
            self.check_model(at.model)
        total = len(places) * len(tasks) * len(methods) * len(seeds) * len(metrics) * len(ablations)
        if total > MOST_RUNS:
            raise InputError(f"{self.name} describes {total} runs; a study has at most {MOST_RUNS}")
        made = [
            Request(
                model=at.model, revision=at.revision, task=task, label=label, method=method, options=options, metric=metric, ablation=ablation,
                seed=seed, **common, reading=readings[task],
                reference=top.get("reference") if (ablation or declared(method).ablation) in MEANS else None,
            )
            for at, task, seed, (label, method, options), metric, ablation in product(
                places, tasks, seeds, methods, metrics, ablations
            )
            if not any(
                all({"model": at.given, "task": task, "method": label}[key] == value for key, value in leave.items())
                for leave in left_out
            )
        ]  # fmt: skip
        if not made:
            raise InputError(f"{self.name} describes no runs")
        with self.refusing("tasks"):
            for source in sources:
                assert source.task or source.path  # loads the task's package: last, since it imports torch
        return tuple(made)

    def places(self, top: Mapping[str, Any], models: Sequence[str]) -> list["_Place"]:
        """Each model, or each checkpoint of each model: a directory inside of a model's directory, or else a revision."""
        from circuits import plugins, zoo

        revision = self.text(top, "revision")
        if "checkpoints" not in top:
            return [_Place(model, model, revision) for model in models]
        if revision is not None:
            raise self.error("revision", "and checkpoints exclude each other")
        places = []
        for model in models:
            inside = (self.base / model).is_dir()
            if not inside and (plugins.names_built_model(model) or model in zoo.names()):
                raise self.error(
                    "checkpoints", f"of {model} do not exist; give Hugging Face ids or directories of checkpoints"
                )
            for name in self.names(top, "checkpoints"):
                places.append(_Place(model, f"{model}/{name}", None) if inside else _Place(model, model, name))
        return places

    def error(self, key: str, what: str) -> InputError:
        return InputError(f"{self.name}: {key} {what}")

    @contextmanager
    def refusing(self, key: str) -> Iterator[None]:
        """An InputError in this block is raised with the name of the key."""
        try:
            yield
        except InputError as problem:
            raise self.error(key, f"cannot be used: {problem}") from None

    def known(self, given: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
        """A table that has no other keys than these; `-` and `_` are the same in keys."""
        if not isinstance(given, dict):
            raise self.error(where, f"is {kind_of(given)}; expected a table")
        table: dict[str, Any] = {}
        for key, value in given.items():
            plain = key.replace("-", "_")
            if plain not in keys:
                near = get_close_matches(plain, keys, n=1)
                hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
                raise self.error(f"{where}.{key}" if where else key, f"is not known{hint}")
            if plain in table:
                raise self.error(f"{where}.{key}" if where else key, "is given twice, with - and with _")
            table[plain] = value
        return table

    def readings(self, top: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """For each task, the options for reading its file that are not the defaults; none for a task that is not a file."""
        given: dict[str, Any] = {
            name: self.text(top, name) if default is None else self.flag(top, name, default)
            for name, default in READING.items()
        }
        with self.refusing("columns"):
            reading_of(given)
        changed = {name: value for name, value in given.items() if value != READING[name]}
        files = [task for task in tasks if names_file(self.base / task)]
        if changed and not files:
            raise self.error(next(iter(changed)).replace("_", "-"), "is for files of prompts, and no task is a file")
        return {task: changed if task in files else {} for task in tasks}

    def check_reference(
        self, top: Mapping[str, Any], methods: Sequence[tuple[str, str, Any]], ablations: Sequence[str | None]
    ) -> None:
        """Refuses a reference that is not a file, or that none of the runs takes a mean over."""
        reference = self.text(top, "reference")
        if reference is None:
            return
        used = {ablation or declared(method).ablation for _, method, _ in methods for ablation in ablations}
        if not used & {*MEANS}:
            raise self.error(
                "reference", f"belongs to the ablations {', '.join(MEANS)}, not to {', '.join(sorted(used))}"
            )
        if self.check_tasks and not is_file(self.base / reference):
            raise self.error("reference", f"names no file: {self.base / reference}")

    def names(self, top: Mapping[str, Any], key: str) -> list[str]:
        value = top[key]
        if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
            raise self.error(key, "must be a list of one or more names, each in quotes")
        if not all(map(str.isprintable, value)):
            raise self.error(key, "must be names without line breaks")
        if len(set(value)) < len(value):
            raise self.error(key, "has a name twice")
        return value

    def numbers(self, top: Mapping[str, Any], key: str, default: list[int]) -> list[int]:
        value = top.get(key, default)
        whole = isinstance(value, list) and all(type(one) is int and 0 <= one <= LARGEST_SEED for one in value)
        if not whole or not value or len(set(value)) < len(value):
            raise self.error(key, "must be a list of different whole numbers of at least 0 (and below 2**63)")
        return value

    def number(
        self, top: Mapping[str, Any], key: str, default: int | None, most: int = LARGEST_SEED, least: int = 1, table: str = "",
    ) -> Any:  # fmt: skip
        value, where = top.get(key, default), table + key.replace("_", "-")
        if value is not default:
            self.check_size(where, value)
            if type(value) is not int or not least <= value <= most:
                bounds = f"of at least {least}" if most == LARGEST_SEED else f"from {least} to {most}"
                raise self.error(where, f"must be a whole number {bounds}, not {value!s:.40}")
        return value

    def check_size(self, key: str, value: Any) -> None:
        if type(value) is int and abs(value) > LARGEST_SEED:
            raise self.error(key, "is too large a number")

    def text(self, top: Mapping[str, Any], key: str) -> str | None:
        value = top.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(key, f"must be text, not {kind_of(value)}")
        return value

    def flag(self, top: Mapping[str, Any], key: str, default: bool = False) -> bool:
        value = top.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key.replace("_", "-"), f"must be true or false, not {kind_of(value)}")
        return value

    def source(self, task: str) -> Source:
        try:
            return find_pairs(str(self.base / task) if is_file(self.base / task) else task)
        except (InputError, OSError, ValueError) as problem:
            raise self.error("tasks", f"cannot be used: {problem}") from None

    def check_placement(self, models: Sequence[str], dtype: str | None, device: str, device_map: str | None) -> None:
        """Checks the names; whether these devices exist is only known on the machine that makes the runs."""
        with self.refusing("dtype"):
            if dtype is not None:
                check_dtype(dtype)
        if device == "auto" and device_map is None:
            return
        from circuits.engine.placement import check_device_name
        from circuits.model import check_map_belongs

        with self.refusing("device"):
            check_device_name(device)
        with self.refusing("device-map"):
            for model in models:
                check_map_belongs(model, device, device_map, here=False)

    def check_model(self, model: str) -> None:
        """Checks built models, and names close to a short name; other models are only known when they are loaded."""
        from circuits import zoo
        from circuits.plugins import find_model, names_built_model

        with self.refusing("models"):
            if names_built_model(model):
                find_model(model)
        near = get_close_matches(model, zoo.names(), n=1, cutoff=0.8)
        if near and model not in zoo.names() and not (self.base / model).exists():
            raise self.error("models", f"cannot be used: there is no model {model!r}; did you mean {near[0]!r}?")

    def methods(self, given: Any) -> list[tuple[str, str, dict[str, Any]]]:
        """(label, method, options) of each."""
        if not isinstance(given, dict) or not given:
            raise self.error("methods", "must be tables, such as [methods.eap-ig]")
        methods = []
        for label, table in given.items():
            if not label.isprintable():
                raise self.error("methods", f"must be names without line breaks; got {label!r:.60}")
            where = f"methods.{label}"
            if not isinstance(table, dict):
                raise self.error(where, f"is {kind_of(table)}; expected a table of its options, which may be empty")
            options = {key.replace("-", "_"): value for key, value in table.items()}
            if len(options) < len(table):
                raise self.error(where, "has an option twice, with - and with _")
            method = options.pop("method", label)
            if not isinstance(method, str):
                raise self.error(f"{where}.method", f"must be text, not {kind_of(method)}")
            if "store" in options:
                raise self.error(f"{where}.store", "is set by the study")
            with self.refusing(where):
                known = declared(method)
                known.check_names(options)
            checked = {
                name: self.option(f"{where}.{name}", value, known.options[name]) for name, value in options.items()
            }
            with self.refusing(where):
                known.check_values(checked)
            for name in checked:
                if known.options[name].kind in (Kind.PATHS, Kind.DICTIONARIES):
                    raise self.error(
                        f"{where}.{name}".replace("_", "-"),
                        "is not for studies, to whose addresses the contents of files do not count",
                    )
            for name in files_of(method):
                if self.check_tasks and name in checked and not is_file(self.base / checked[name]):
                    raise self.error(f"{where}.{name}".replace("_", "-"), f"names no file: {self.base / checked[name]}")
            methods.append((label, method, checked))
        return methods

    def option(self, key: str, value: Any, option: Option) -> Any:
        """An option's value, if it has the kind of the option."""
        if not option.kind.fits(value):
            raise self.error(key.replace("_", "-"), f"is {kind_of(value)}; expected {option.kind.described}")
        self.check_size(key.replace("_", "-"), value)
        return float(value) if option.kind is Kind.NUMBER else value

    def evaluation(self, given: Any, tasks: Sequence[str]) -> dict[str, Any] | None:
        if given is None:
            return None
        table = self.known(given, ("parts", "ablations", "random_circuits", "seed", "fresh"), "evaluation")
        # Defaults are filled in, so that an evaluation which names them is the same evaluation.
        options: dict[str, Any] = {"parts": list(USUAL), "random_circuits": 20, "seed": 1}
        for key in ("parts", "ablations"):
            if key in table:
                options[key] = self.names(table, key)
        options["parts"].sort()
        with self.refusing("evaluation.parts"):
            check_parts(options["parts"])
        with self.refusing("evaluation.ablations"):
            for name in options.get("ablations", ()):
                check_known("ablation", name)
        for key in ("random_circuits", "seed"):
            options[key] = self.number(table, key, options[key], least=0, table="evaluation.")
        if "fresh" in table:
            options["fresh"] = self.number(table, "fresh", None, table="evaluation.")
            for task in tasks:
                if self.check_tasks and is_file(self.base / task):
                    raise self.error("evaluation.fresh", f"needs a task to draw from, and {task} is a file")
        return options

    def left_out(
        self, given: Any, models: Sequence[str], tasks: Sequence[str], labels: Sequence[str]
    ) -> list[dict[str, str]]:
        if not isinstance(given, list):
            raise self.error("leave-out", "must be [[leave-out]] tables")
        known = {"model": models, "task": tasks, "method": labels}
        tables = []
        for table in given:
            left = self.known(table, tuple(known), "leave-out")
            if not left:
                raise self.error("leave-out", "must name a model, a task or a method")
            for key, value in left.items():
                if not isinstance(value, str) or value not in known[key]:
                    raise self.error(f"leave-out.{key}", f"must be one of {', '.join(known[key])}; got {value!r:.60}")
            tables.append(left)
        return tables


def kind_of(value: Any) -> str:
    """The kind of a value of a TOML file, for error messages."""
    names = {
        str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a table",
    }  # fmt: skip
    return names.get(type(value), "a date")
