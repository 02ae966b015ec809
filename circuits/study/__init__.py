"""Studies: grids of models, tasks, methods and seeds, computed in one process or many, and resumed after any fault.

from circuits.study import StudyDirectory, read_study, run_study, table

study = read_study("study.toml")
out = StudyDirectory.begin("study")
run_study(study, out)
rows = table(study, out)
"""

from circuits.study.directory import Entry, StudyDirectory
from circuits.study.request import Request, Study
from circuits.study.run import Outcome, run_study, status
from circuits.study.spec import parse_study, read_study
from circuits.study.table import table, write_table

__all__ = [
    "Entry", "Outcome", "Request", "Study", "StudyDirectory", "parse_study", "read_study", "run_study", "status", "table",
    "write_table",
]  # fmt: skip
