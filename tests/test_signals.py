"""Stopped at any time, imports included, a command says one line and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fromnoise import __main__ as entry
from fromnoise import cli, signals

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the moments to stop at are seen in /proc, which Linux alone has"
)


def listens(process) -> bool:
    """Whether the process has got its handlers."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)


def imports_torch(process) -> bool:
    return "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize(
    ("name", "moment", "advice"),
    [
        ("SIGINT", listens, ""),
        ("SIGINT", imports_torch, "; there is no checkpoint yet: the same command with --resume starts again"),
        ("SIGTERM", imports_torch, "; there is no checkpoint yet: the same command with --resume starts again"),
    ],
)
def test_stopped_while_it_imports(tmp_path, name, moment, advice):
    command = [sys.executable, "-m", "fromnoise", "train", "digits", "--out", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not moment(process):
        assert process.poll() is None
        time.sleep(0.001)
    for _ in range(2):
        process.send_signal(getattr(signal, name))
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (STATUS[name], "")
    assert errors == f"fromnoise: {'interrupted' if name == 'SIGINT' else 'stopped'}{advice}\n"
    assert os.listdir(tmp_path) == []


@pytest.fixture
def listening(monkeypatch):
    """Handlers as the command has them, and those of before afterwards; nothing ends this process."""
    before = {number: signal.getsignal(number) for number in signals.ASKING}
    monkeypatch.setattr(signals, "_last", [0, -signals.PATIENCE])
    monkeypatch.setattr(os, "_exit", sys.exit)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("name", "status"), STATUS.items(), ids=STATUS)
def test_stopped_at_work(listening, monkeypatch, capfd, name, status):
    """It says how to go on. A second signal does not disturb the clean-up, and none afterwards does."""
    cleaned = []

    def work(arguments):
        with signals.advising(lambda: "go on so"):
            try:
                os.kill(os.getpid(), getattr(signal, name))
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                cleaned.append(True)

    monkeypatch.setitem(cli.COMMANDS, "models", work)
    monkeypatch.setattr(sys, "argv", ["fromnoise", "models"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == status
    assert capfd.readouterr() == ("", f"fromnoise: {'interrupted' if name == 'SIGINT' else 'stopped'}; go on so\n")
    assert cleaned
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_was_lost_is_found(listening):
    def work():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        signals.check()

    with pytest.raises(SystemExit, match="143"):
        signals.stoppable(work)


def test_what_is_ignored_stays_ignored(listening):
    """As nohup has it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signals.stoppable(lambda: os.kill(os.getpid(), signal.SIGHUP) or 7) == 7
