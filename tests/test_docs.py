"""Pages that are generated are up to date."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_architectures_is_what_the_tests_check():
    table = runpy.run_path(str(DOCS / "architectures.py"))["table"]
    assert (DOCS / "architectures.md").read_text() == table(), "run: python docs/architectures.py"
