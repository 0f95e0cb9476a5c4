"""How a binary ends, whatever its streams are."""

import io
import os
import pathlib
import signal
import sys

import pytest
from absl import flags
from tqdm import tqdm

from experiments.process import FolderParser, ending_in_one_line, prepare_streams
from maml_jax.errors import DivergedError, UsageError
from maml_jax.run.loop import Interrupted, stop_requests
from maml_jax.run.messages import note

ENDS = [
    (UsageError("seed=-1 is not allowed"), 2, "error: seed=-1 is not allowed\n"),
    (DivergedError("no update was finite"), 2, "error: no update was finite\n"),
    (Interrupted("at meta-step 20", 143), 143, "stopped at meta-step 20; the same command"),
    (OSError(28, "No space left on device", "W/x"), 2, "error: [Errno 28] No space left on device"),
    (BrokenPipeError(32, "Broken pipe"), 141, ""),
]


@pytest.mark.parametrize(("error", "code", "message"), ENDS, ids=[str(of[1:]) for of in ENDS])
def test_an_end_is_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    with pytest.raises(SystemExit) as ended, ending_in_one_line():
        raise error
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert printed.err.startswith(message)
    assert len(printed.err.splitlines()) == bool(message)
    assert not printed.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_with_a_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(os, "_exit", sys.exit)
    before = signal.getsignal(number)

    def signal_twice() -> None:
        with ending_in_one_line(), stop_requests() as received:
            signal.raise_signal(number)
            assert received == [number]  # a dispatch may end
            signal.raise_signal(number)

    with pytest.raises(SystemExit) as ended:
        signal_twice()
    assert ended.value.code == 128 + number
    assert capfd.readouterr().err.splitlines()[-1].startswith("stopped; what was saved is kept")
    assert signal.getsignal(number) is before


def test_a_reader_that_goes_away_ends_a_binary_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    read, written = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.FileIO(written, "w")))
    with pytest.raises(SystemExit) as ended, ending_in_one_line():
        print("report: run/report.html")
    assert ended.value.code == 141
    sys.stdout.close()


@pytest.mark.parametrize("workdir", ["", "gs://bucket/run", "file:///tmp/run"])
def test_a_workdir_that_is_no_folder_is_refused_with_the_flag(workdir: str) -> None:
    values = flags.FlagValues()
    flags.DEFINE(FolderParser(), "workdir", None, "folder", values)
    with pytest.raises(flags.IllegalFlagValueError, match=f"flag --workdir={workdir}: "):
        values(["program", f"--workdir={workdir}"])
    values(["program", "--workdir=~/run"])
    assert values.workdir == str(pathlib.Path.home() / "run")


@pytest.mark.parametrize("stream", [None, "pipe"])
def test_training_goes_on_without_a_reader_of_stderr(
    monkeypatch: pytest.MonkeyPatch, stream: str | None
) -> None:
    read, written = os.pipe()
    os.close(read)
    pipe = io.TextIOWrapper(io.FileIO(written, "w"), write_through=True)
    monkeypatch.setattr(sys, "stderr", pipe if stream else None)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    prepare_streams()
    note("resuming from meta-step 20")
    list(tqdm(range(3), desc="±"))
    print("0.5 ± 0.1")
    sys.stdout.flush()
    pipe.close()
    assert sys.stdout.buffer.getvalue() == b"0.5 \\xb1 0.1\n"
