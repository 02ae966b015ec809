"""`circuits dictionary`: trains, shows, and names the command that continues."""

import io
import json
import shutil
from contextlib import chdir, redirect_stderr

import pytest

import circuits
from circuits.dictionaries import train
from tests.command import GOLDEN_MODEL, command

SMALL = (
    "--features", 12, "--k", 2, "--tokens", 200, "--context", 6, "--batch-size", 8, "--buffer", 48, "--step", 20, "--held-out", 4,
    "--model", GOLDEN_MODEL,
)  # fmt: skip


ASKED = ("dictionary", "train", "transcoder.1", "resid_pre.1", "--out", "my own", *SMALL)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a training that was interrupted after two buffers, and what was printed."""
    folder, real = tmp_path_factory.mktemp("training"), train._Training._use

    def stop(self, pairs, report):
        if self.buffers == 2:
            raise KeyboardInterrupt
        real(self, pairs, report)

    errors = io.StringIO()
    with chdir(folder), pytest.MonkeyPatch.context() as patch, redirect_stderr(errors):
        patch.setattr(train._Training, "_use", stop)
        patch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
        command(*ASKED, code=130)
    return folder, errors.getvalue()


@pytest.fixture
def copied(stopped, tmp_path, monkeypatch):
    shutil.copytree(stopped[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def test_an_interrupted_training_names_the_command_that_continues_it(stopped):
    assert "to continue: circuits dictionary train transcoder.1 resid_pre.1 --out 'my own' --features 12" in stopped[1]
    assert "--resume" in stopped[1]


def test_an_unfinished_training_is_shown_and_not_overwritten(copied, capsys):
    command("dictionary", "show", "my own")
    assert "not finished: 200 tokens" in capsys.readouterr().out
    command(*ASKED, code=2)
    assert "my own already exists" in capsys.readouterr().err
    command(*ASKED, "--finish", code=2)
    assert "give resume, too" in capsys.readouterr().err


def test_a_training_is_finished_early_or_resumed(copied, capsys):
    shutil.copytree("my own", "early")
    command(*ASKED, "--out", "early", "--resume", "--finish")
    shown = capsys.readouterr().out
    assert "stopped early, after " in shown
    assert " of 10 steps" in shown
    command(*ASKED, "--resume")
    shown = capsys.readouterr().out
    assert "2 dictionaries of" in shown
    assert "stopped early" not in shown
    assert "explained variance" in shown
    early, whole = (circuits.load_dictionary(f"{folder}/transcoder.1") for folder in ("early", "my own"))
    assert early.digest != whole.digest
    assert whole.site.is_transcoder


def test_a_finished_training_is_shown_and_a_changed_record_refused(copied, capsys, tmp_path):
    command(*ASKED, "--resume", "--finish")
    capsys.readouterr()
    command("dictionary", "show", "my own", "--json")
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["features"] == 12
    quality = {"explained_variance", "dead", "never_active", "l0", "loss", "loss_recovered_zero", "loss_recovered_mean"}
    assert set(record["dictionaries"][0]["quality"]) >= quality
    command(*ASKED, "--resume")
    assert "already finished" in capsys.readouterr().out
    record["tokens"] = 10**9
    (tmp_path / "my own" / "training.json").write_text(json.dumps(record))
    command("dictionary", "show", "my own", code=2)
    assert "damaged or was changed" in capsys.readouterr().err
