"""Pages that are generated are up to date, their Python examples run, and the API pages hold all that is public."""

import re
import runpy
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

import circuits
import tasks
from circuits import PromptPairs, zoo
from tests.tiny_models import COMMON, GROUPED

DOCS = Path(__file__).parents[1] / "docs"
# tasks.md has a test of its own.
PAGES = {
    page.name: re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    for page in DOCS.glob("*.md")
    if page.name != "tasks.md"
}
OWN_MODEL = {"index.md"}
"""Pages that load the default model."""
BEFORE = {
    "acdc.md": """
from tests.tiny_models import random_pairs, tiny
small, few = tiny("llama"), random_pairs(n=1)
""",
    "comparison.md": """
scores = circuits.edge_attribution(model, pairs)
linear, circuit = circuits.coar(model, pairs, samples=64), scores.top(20)
""",
    "export.md": """
import json, safetensors, torch
found = circuits.edge_attribution(model, pairs).top(40)
circuits.export_circuit(found, "ioi.safetensors", "eap-ig-tensors")
""",
}
"""What the text of a page takes for granted."""
SMALLER = {
    "index.md": [("n=16", "n=2")],
    "acdc.md": [("model, pairs,", "small, few,"), ("edges=250", "edges=40")],
    "export.md": [("a23.h3", "a3.h3"), ('"m17", "m18"', '"m1", "m2"')],
    "edge_pruning.md": [("400, seed", "400, steps=20, seed")],
    "evaluation.md": [("n_random=50", "n_random=5"), ("model, pairs,", "model, pairs[:3],")],
    # The model has so few nodes that verification patches all of them, and none are left to diagnose.
    "verification.md": [("checked.effects.nodes,", "checked.effects.nodes[:20],")],
}
"""What is written otherwise here, so that examples take a second, or have something to do."""


@cache
def model_of_the_pages() -> circuits.Model:
    """Random, with enough edges for the examples' numbers, and SmolLM2's tokenizer."""
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(zoo.fetch("smollm2-135m"))
    shape = {**COMMON, **GROUPED, "num_hidden_layers": 5, "vocab_size": len(tokenizer)}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).eval()
    return circuits.load_model(model, tokenizer=tokenizer)


@cache
def pairs_of_the_pages() -> PromptPairs:
    """Six, of several lengths, with roles."""
    pairs = tasks.load("ioi").pairs(model_of_the_pages(), n=6)
    assert len({len(prompt) for prompt in pairs.clean}) > 1
    return pairs


@pytest.mark.real_model
@pytest.mark.filterwarnings("default::circuits.errors.AttributionWarning")
@pytest.mark.parametrize(
    "page",
    [page for page, blocks in sorted(PAGES.items()) if blocks],
)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"circuits": circuits, "tasks": tasks, "__name__": "page"}
    if page not in OWN_MODEL:
        names |= {"model": model_of_the_pages(), "pairs": pairs_of_the_pages()}
    text = "\n".join([BEFORE.get(page, ""), *PAGES[page]])
    for written, smaller in SMALLER.get(page, []):
        assert written in text
        text = text.replace(written, smaller)
    exec(compile(text, page, "exec"), names)


def test_the_api_pages_hold_all_that_is_public_once():
    listed = [
        name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    ]
    assert sorted(name for name in listed if re.fullmatch(r"circuits\.\w+", name)) == [
        f"circuits.{n}" for n in circuits.__all__
    ]
    assert {f"tasks.base.{name}" for name in ("Task", "Example", "At", "Draw", "UnusableError")} <= set(listed)


def test_every_page_is_in_the_navigation():
    text = DOCS.with_name("mkdocs.yml").read_text()
    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS).as_posix()}\n" in text, page


def test_the_table_of_architectures_is_what_the_tests_check():
    table = runpy.run_path(str(DOCS / "architectures.py"))["table"]
    assert (DOCS / "architectures.md").read_text() == table(), "run: python docs/architectures.py"


def test_every_table_begins_with_its_head():
    """A blank line within a table ends it, and what follows is shown as text."""
    for page in [*DOCS.rglob("*.md"), DOCS.with_name("README.md")]:
        lines = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL).splitlines()
        for i, line in enumerate(lines):
            if line.startswith("|") and not (i and lines[i - 1].startswith("|")):
                assert re.fullmatch(r"\|[-:| ]+\|", lines[i + 1]), f"{page.name}: {line}"
