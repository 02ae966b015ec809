"""What no file of the packages does, read from their syntax trees: nothing runs what a file holds."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for name in ("circuits", "tasks") for path in (ROOT / name).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__", "execfile"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
LOADERS = {"from_pretrained", "from_config"}
UNPACKING = {"extract", "extractall", "unpack_archive"}


def dotted(node: ast.expr) -> str:
    """`torch.load` for the tree of `torch.load`; what is not a chain of names counts as `?`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def argument(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def constant(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else node


def refused_imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    else:
        return []
    return [name for name in names if name.split(".")[0] in MODULES or name in ("torch.load", "numpy.load")]


def refused_call(call: ast.Call) -> str | None:
    """What is wrong with a call, or None."""
    name = dotted(call.func)
    last = name.rpartition(".")[2]
    if name in BUILTINS or name.removeprefix("builtins.") in BUILTINS:
        return name
    if name == "torch.load" and constant(argument(call, "weights_only")) is not True:
        return "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and constant(argument(call, "allow_pickle")) not in (None, False):
        return "numpy.load of a pickle"
    if name in SHELLS or constant(argument(call, "shell")) not in (None, False):
        return "a shell"
    if last in UNPACKING and name != f"re.{last}":
        return f"{name}, which writes wherever an archive says"
    if constant(argument(call, "trust_remote_code")) is True:
        return "trust_remote_code=True"
    if last in LOADERS and not {"trust_remote_code", None} & {keyword.arg for keyword in call.keywords}:
        return f"{name} without trust_remote_code, which asks whether to run a repository's code"
    return None


def faults(source: str) -> list[str]:
    result = []
    for node in ast.walk(ast.parse(source)):
        problems = refused_imports(node)
        if isinstance(node, ast.Call) and (wrong := refused_call(node)):
            problems.append(wrong)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            problems += trusting_default(node)
        if isinstance(node, ast.Dict):
            problems += [
                "trust_remote_code of a constant"
                for key, value in zip(node.keys, node.values, strict=True)
                if constant(key) == "trust_remote_code" and constant(value) is True
            ]
        result += [f"line {getattr(node, 'lineno', '?')}: {wrong}" for wrong in problems]
    return result


def trusting_default(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """A `trust_remote_code` that is anything but False unless the caller names it."""
    given = function.args
    places = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(places) - len(given.defaults)) + given.defaults
    pairs = [*zip(places, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [
        f"{function.name} trusts remote code by default"
        for argument, default in pairs
        if argument.arg == "trust_remote_code" and default is not None and constant(default) is not False
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_a_file_holds(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import joblib.numpy_pickle", "from torch import load", "eval(text)",
        "builtins.exec(text)", "compile(text, '', 'exec')", "torch.load(path)", "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)", "subprocess.run(text, shell=True)", "os.system(text)", "archive.extractall()",
        "shutil.unpack_archive(path)", "AutoModel.from_pretrained(name, trust_remote_code=True)", "import yaml",
        "options = {'trust_remote_code': True}",
        "AutoConfig.from_pretrained(name)", "AutoModelForCausalLM.from_config(config, dtype=dtype)",
        "def load(name, trust_remote_code=True): pass", "def load(name, *, trust_remote_code=None): pass",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source):
    assert len(faults(source)) >= 1


def test_what_is_allowed_is_not_found():
    source = (
        "torch.load(path, weights_only=True)\nre.compile(text)\nmodel.eval()\nload(name, trust_remote_code=trust)\n"
        "AutoConfig.from_pretrained(name, trust_remote_code=False)\nAutoConfig.from_pretrained(name, **options)\n"
    )
    assert (
        faults(source + "def load(name, trust_remote_code=False): pass\nsubprocess.run(['a'])\nnp.load(path)\n") == []
    )


def test_remote_code_is_trusted_only_by_name():
    """`trust_remote_code` stands in the sources only where it is passed on, and the command line has no such option."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            value = argument(call, "trust_remote_code")
            assert value is None or isinstance(value, ast.Name) or constant(value) is False, path
        if "cli" in path.parts:
            assert "remote_code" not in path.read_text(encoding="utf-8")
