"""The binaries as a user meets them."""

import json
import pathlib
import subprocess

from tests.run.runs import ENVIRONMENT, ROOT, call_all, command

WRONG = [
    (["train", "--config.inner.num_stesp=3"], "unknown config key 'inner.num_stesp'; did you mean"),
    (["studies.equal_compute", "--steps=-5"], "--steps=-5"),
    (["train", "--config.halting.gate=ramp"], "'halting.gate'; it is called lengths.gate now"),
    (["train", "--import=no_such_module"], "--import=no_such_module cannot be imported"),
    (["train", "--config=configs/nope.py"], "config file 'configs/nope.py' does not exist"),
    (["train", "--config=configs/sinusoid.py:papr"], "variant 'papr' is unknown"),
    (["evaluate"], "holds no run"),
    (["evaluate", "--workdir=gs://bucket/run"], "flag --workdir=gs://bucket/run: workdir"),
]


def test_wrong_use_is_one_line_and_a_failing_exit(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    commands = [[module, f"--workdir={workdir}", *flags] for (module, *flags), _ in WRONG]
    for done, (_, message) in zip(call_all(commands), WRONG, strict=True):
        assert done.returncode == 2, done
        assert len(done.stderr.splitlines()) == 1, done
        assert message in done.stderr
    assert not workdir.exists()


def test_train_then_evaluate_print_a_json_object_last(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    (done,) = call_all([["train", *command("train", f"--workdir={workdir}")[3:]]])
    assert done.returncode == 0, done.stderr
    trained = json.loads(done.stdout.splitlines()[-1])
    assert (workdir / "report.html").exists()
    evaluate = [*command("evaluate")[:3], f"--workdir={workdir}"]
    # Without git, a home folder and stderr, and where the output is ASCII.
    bare = {key: value for key, value in ENVIRONMENT.items() if key not in ("HOME", "PATH")}
    done = subprocess.run(
        ["/bin/bash", "-c", '"$@" 2>&-', "bash", *evaluate],
        cwd=ROOT,
        env=bare | {"PATH": "/nonexistent", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0
    evaluated = json.loads(done.stdout.splitlines()[-1])
    assert evaluated["loss"] == trained["loss"]
    assert evaluated["commit"] == "unknown"


def test_help_lists_the_flags() -> None:
    train, study = call_all(
        [["train", "--help", "--config=configs/glyphs.py"], ["studies.acceleration", "--help"]]
    )
    assert all(f"--{flag}: " in train.stdout for flag in ("workdir", "config"))
    assert "--config.num_meta_steps=1000: meta-steps" in train.stdout  # as the card has it
    assert all(f"--{flag}: " in study.stdout for flag in ("workdir", "task", "k_max"))
