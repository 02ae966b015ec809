"""`circuits dictionary`: trains, shows, and names the command that continues."""

import json
import shutil
from contextlib import chdir

import circuits
from circuits.dictionaries import train
from tests.command import GOLDEN_MODEL, command

SMALL = (
    "--features", 12, "--k", 2, "--tokens", 200, "--context", 6, "--batch-size", 8, "--buffer", 48, "--step", 20, "--held-out", 4,
    "--model", GOLDEN_MODEL,
)  # fmt: skip


def test_train_interrupted_resumed_and_shown(tmp_path, monkeypatch, capsys):
    real = train._Training._use

    def stop(self, pairs, report):
        if self.buffers == 2:
            raise KeyboardInterrupt
        real(self, pairs, report)

    with chdir(tmp_path):
        monkeypatch.setattr(train._Training, "_use", stop)
        monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
        asked = ("dictionary", "train", "transcoder.1", "resid_pre.1", "--out", "my own", *SMALL)
        command(*asked, code=130)
        shown = capsys.readouterr().err
        assert "to continue: circuits dictionary train transcoder.1 resid_pre.1 --out 'my own' --features 12" in shown
        assert "--resume" in shown
        monkeypatch.setattr(train._Training, "_use", real)
        command("dictionary", "show", "my own")
        assert "not finished: 200 tokens" in capsys.readouterr().out
        command(*asked, code=2)
        assert "my own already exists" in capsys.readouterr().err
        command(*asked, "--finish", code=2)
        assert "give resume, too" in capsys.readouterr().err
        shutil.copytree("my own", "early")
        command(*asked, "--out", "early", "--resume", "--finish")
        shown = capsys.readouterr().out
        assert "stopped early, after " in shown
        assert " of 10 steps" in shown
        early = circuits.load_dictionary("early/transcoder.1")
        command(*asked, "--resume")
        shown = capsys.readouterr().out
        assert "2 dictionaries of" in shown
        assert "stopped early" not in shown
        assert early.digest != circuits.load_dictionary("my own/transcoder.1").digest
        assert "explained variance" in shown
        command("dictionary", "show", "my own", "--json")
        record = json.loads(capsys.readouterr().out)
        assert record["settings"]["features"] == 12
        quality = record["dictionaries"][0]["quality"]
        assert set(quality) >= {
            "explained_variance",
            "dead",
            "never_active",
            "l0",
            "loss",
            "loss_recovered_zero",
            "loss_recovered_mean",
        }
        assert circuits.load_dictionary("my own/transcoder.1").site.is_transcoder
        command(*asked, "--resume")
        assert "already finished" in capsys.readouterr().out
        record["tokens"] = 10**9
        (tmp_path / "my own" / "training.json").write_text(json.dumps(record))
        command("dictionary", "show", "my own", code=2)
        assert "damaged or was changed" in capsys.readouterr().err
