"""The command line: help, one-line errors, exit codes, and that it starts at once."""

import os
import signal
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
        (["fit"], "Missing option '--out'"),
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


def test_no_output_replaces_what_ccq_did_not_write(tmp_path, monkeypatch, capsys):
    """Before any model is loaded; two inputs where one is meant are no input and output."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl", "c.faiss.json"):
        (tmp_path / name).write_text("mine" if name != "c.faiss.json" else '{"version": 1, "my": "notes"}')
    for arguments, message in (
        (["encode", "M", "a.jsonl", "b.jsonl"], "Missing option '--out'"),
        (["encode", "M", "a.jsonl", "b.jsonl", "--out", "c"], "unexpected extra argument"),
        (["encode", "M", "a.jsonl", "--out", "a.jsonl"], "a.jsonl is there and is none of ours"),
        (["export-faiss", "M", "codes", "--out", "b.jsonl"], "b.jsonl is there and is none of ours"),
        (["export-faiss", "M", "codes", "--out", "c.faiss"], "c.faiss.json is there and is none of ours"),
        (["evaluate", "--task", "beir:x", "--bytes", "8", "--out", "a.jsonl"], "a.jsonl is there and is none of ours"),
        (["fit", "--out", "."], "is no empty folder and holds no saved model"),
        (["encode", "M", "a.jsonl", "--out", "./"], "holds other things than codes"),
    ):
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert all("m" in (tmp_path / name).read_text() for name in ("a.jsonl", "b.jsonl", "c.faiss.json"))


def process(body, **options):
    """``ccq own``, a command with this body, in a process of its own."""
    code = f"import os, sys, time\nfrom ccq_utils import cli\n@cli.app.command()\ndef own():\n    {body}\n"
    code += "sys.argv = ['ccq', 'own']\nsys.exit(cli.main())"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", code], text=True, **streams)


def test_streams_that_fail_are_one_line_or_none():
    done = process("print('caf\\u00e9')", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.communicate() == ("caf\\xe9\n", "") and done.returncode == 0
    with open("/dev/full", "w") as full:
        done = process("print('x')", stdout=full)
        assert done.communicate()[1].startswith("ccq: No space left on device") and done.returncode == 2
    done = process("time.sleep(0.5); print('x' * 10**6)")
    done.stdout.close()
    assert (done.stderr.read(), done.wait()) == ("", 1)
    done = process("sys.exit(3)", preexec_fn=lambda: os.close(2))
    assert done.wait() == 3


def test_an_unreadable_file_is_one_line():
    error = process("raise PermissionError(13, 'Permission denied', 'texts.jsonl')").communicate()[1]
    assert error == "ccq: Permission denied: texts.jsonl; what was finished is kept\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_an_end_from_outside_tidies_up(name):
    body = "try:\n        print(flush=True)\n        time.sleep(50)\n    finally:\n        print('tidy')"
    done = process(body, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # nohup ignores it
    done.stdout.readline()
    done.send_signal(getattr(signal, name))
    assert done.communicate() == ("tidy\n", "") and done.returncode == 130
