"""The command line: help, one-line errors, exit codes, and that it starts at once."""

import subprocess
import sys

import pytest

from ccq_utils import cli


def test_without_a_command_the_commands_are_listed(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    assert all(
        f"\n  {name} " in printed for name in ("run", "verify", "publish", "evaluate", "fit", "encode", "search")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "No such command 'nope'"),
        (["fit"], "Missing option '--output'"),
        (["evaluate", "--task", "beir:x", "--bytes", "few"], "Invalid value for '--bytes'"),
        (["run", "--profile", "nope"], "unknown profile 'nope'; known: default"),
    ],
)
def test_what_a_user_can_mend_is_one_line(capsys, arguments, message):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ccq: {message}") and error.count("\n") == 1


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ccq_utils.run.publish.publish", interrupted)
    assert cli.main(["publish"]) == 130 and capsys.readouterr().err == ""


def test_help_imports_nothing_heavy():
    code = "import sys; from ccq_utils import cli; cli.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "papermill", "tqdm"} & set(done.stderr.split())
