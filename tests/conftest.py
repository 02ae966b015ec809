"""Fixtures; and an environment in which no test can reach a hub or a terminal."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests import runtime_checks

runtime_checks.check_some_calls()

# A busy machine is no failure.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


WHOLE_FILES = ("tests/workers/test_ray.py", "tests/test_documented_commands.py", "tests/hostile/test_bombs.py")
"""Their tests share what takes long to make, so one process gets them all. (xdist_group does not hold with pytest 9.2.)"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadGroupScheduling

    class FilesTogether(LoadGroupScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.partition("::")[0]
            return path if path in WHOLE_FILES else nodeid

    return FilesTogether(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_runtest_setup():
    runtime_checks.calls.clear()


@pytest.fixture(autouse=True, scope="session")
def _threads():
    """Tiny models are faster on one thread, and pytest-xdist brings the others."""
    torch.set_num_threads(int(os.environ.get("MECH_CIRCUITS_TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def smollm2():
    """The default model, fetched into the user's cache if it is not there."""
    import circuits

    return circuits.load_model("smollm2-135m")


@pytest.fixture(scope="session")
def narrow_smollm2(tmp_path_factory):
    """A directory with a random model of SmolLM2-135M's shape (30 layers of 9 heads), but narrow, and its tokenizer."""
    import transformers

    from circuits import zoo

    place, real = tmp_path_factory.mktemp("narrow"), zoo.fetch("smollm2-135m")
    own = transformers.AutoConfig.from_pretrained(real)
    torch.manual_seed(0)
    own.update({"hidden_size": 36, "head_dim": 4, "intermediate_size": 8, "initializer_range": 0.3, "dtype": "float32"})
    transformers.LlamaForCausalLM(own).save_pretrained(place)
    transformers.AutoTokenizer.from_pretrained(real).save_pretrained(place)
    return place
