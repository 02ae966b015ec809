"""`import circuits` lets torch's waiting threads sleep, if it comes before torch; else that is said once, on a busy machine."""

import os
import subprocess
import sys

import pytest

SAID = "torch was imported before circuits"
BUSY = "import os, warnings; os.getloadavg = lambda: (99.0, 99.0, 99.0)\n"
LOADED = "circuits.load_model('compiled/induction'); circuits.load_model('compiled/induction')\n"
ASK = "print(os.environ.get('GOMP_SPINCOUNT'))"


def run(code, **given):
    rest = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=rest | given, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="torch's threads are libgomp's on Linux alone")


def test_circuits_before_torch():
    assert run(f"import os, circuits\n{ASK}") == ("1000", "")
    assert run(f"import os, circuits\n{ASK}", OMP_WAIT_POLICY="ACTIVE") == ("None", "")


def test_torch_before_circuits_is_said_once_and_on_a_busy_machine_only():
    code = f"import torch, circuits; torch.set_num_threads(2)\n{LOADED}{ASK}"
    out, warned = run(BUSY + code)
    assert (out, warned.count(SAID)) == ("None", 1)
    _, warned = run(f"import os; os.getloadavg = lambda: (0.0, 0.0, 0.0)\n{code}")
    assert SAID not in warned
