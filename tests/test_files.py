"""Writing files: whole or not at all."""

import ctypes
import errno
import itertools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import HOST, check_output, only_one, scratch_folder, write_atomically


def test_a_file_appears_whole_with_its_folder(tmp_path):
    with write_atomically(tmp_path / "new" / "a.txt", "w") as file:
        file.write("one\n")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"one\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), write_atomically(tmp_path / "a") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_what_a_library_writes_by_name_counts(tmp_path):
    with write_atomically(tmp_path / "a") as file, open(file.name, "wb") as by_name:
        by_name.write(b"by name")
    assert (tmp_path / "a").read_bytes() == b"by name"


def test_writers_at_the_same_time_do_not_meet(tmp_path):
    """Threads of one process, as of a notebook: the last one wins, and the file is always a whole one."""
    gate = threading.Barrier(4)

    def write(number):
        with write_atomically(tmp_path / "a") as file:
            gate.wait()
            file.write(bytes([number]) * 10_000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a").read_bytes()
    assert len(content) == 10_000 and len(set(content)) == 1


def test_a_full_disk_and_a_file_in_the_way_are_one_clear_message(tmp_path):
    with pytest.raises(StudyError, match="the disk of .* is full; free space"), write_atomically(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot write to .*file"), write_atomically(tmp_path / "file" / "a"):
        pass
    with pytest.raises(OSError, match="other"), write_atomically(tmp_path / "a"):
        raise OSError(errno.EIO, "other")
    words = "write error: 959 != 8192 (File too large)"  # as faiss, safetensors and others say it
    with pytest.raises(StudyError, match="the disk of .* is full"), write_atomically(tmp_path / "a"):
        raise RuntimeError(words)


def run(code, *arguments, **options):
    """A process of its own that has imported the writers."""
    code = f"import sys, time\nfrom pathlib import Path\nfrom ccq_utils.common.files import *\n{code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    code = (
        "for at in range(10**6):\n with write_atomically(sys.argv[1]) as file:\n  file.write(b'%d' % (at % 10) * 10**6)"
    )
    for wait in np.random.default_rng(0).uniform(0.3, 0.6, 5):
        writer = run(code, tmp_path / "a")
        time.sleep(wait)
        writer.kill()
        writer.communicate()
        content = (tmp_path / "a").read_bytes() if (tmp_path / "a").exists() else b"0" * 10**6
        assert len(content) == 10**6 and len(set(content)) == 1


@given(st.integers(1, 8), st.none() | st.binary(max_size=99), st.lists(st.binary(max_size=99), max_size=3))
def test_a_kill_at_any_file_operation_leaves_the_old_file_or_the_new_one(operation, old, parts):
    """Operations are what Python's audit hooks tell: folders, the hidden file opened, each part of it, its new name."""
    place = Path(tempfile.mkdtemp()) / "new" / "a"
    if old is not None:
        place.parent.mkdir()
        place.write_bytes(old)
    child = os.fork()
    if not child:
        done = itertools.count(1)

        def die(event=None, _=None):
            if event in (None, "open", "os.mkdir", "os.rename", "os.remove") and next(done) == operation:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        with write_atomically(place) as file:
            for part in parts:
                file.write(part)
                file.flush()
                die()
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = place.read_bytes() if place.exists() else None
    assert killed in (0, -signal.SIGKILL) and found in ((b"".join(parts),) if not killed else (old, b"".join(parts)))
    with write_atomically(place) as file:  # whoever writes there next
        file.write(b"next")
    assert place.read_bytes() == b"next" and [path.name for path in place.parent.iterdir()] == ["a"]


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path):
    code = "with write_atomically(sys.argv[1]) as file:\n file.write(bytes(10**5))"
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1000, 1000))
    assert "StudyError: the disk of" in run(code, tmp_path / "a", preexec_fn=limit).communicate()[1]
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_and_the_other_is_named(tmp_path):
    held = "with only_one(Path(sys.argv[1])):\n print('held', flush=True)\n time.sleep(100)"
    for end in ("kill", "whole"):
        first = run(held if end == "kill" else held.replace("100", "0.2"), tmp_path / "out")
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(StudyError, match=f"process {first.pid} of .* is writing to .*out"),
            only_one(tmp_path / "out"),
        ):
            pass
        if end == "kill":
            first.kill()
        first.communicate()
        with only_one(tmp_path / "out"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_under_a_lock_is_named_and_the_lock_goes(tmp_path):
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1, 1))
    said = run("with only_one(Path(sys.argv[1])):\n pass", tmp_path / "out", preexec_fn=limit).communicate()[1]
    assert f"StudyError: the disk of {tmp_path} is full" in said and list(tmp_path.iterdir()) == []


def test_scratch_folders_of_killed_processes_go(tmp_path):
    with scratch_folder(tmp_path / "model") as mine:
        killed = run(
            "with scratch_folder(Path(sys.argv[1])):\n print('made', flush=True)\n time.sleep(100)", tmp_path / "x"
        )
        killed.stdout.readline()
        killed.kill()
        killed.communicate()
        assert len(list(tmp_path.iterdir())) == 2
        with scratch_folder(tmp_path / "model") as other:
            assert set(tmp_path.iterdir()) == {mine, other}
    assert list(tmp_path.iterdir()) == []


def test_files_that_killed_writers_left_go_with_the_next_writer(tmp_path):
    wait = "print('made', flush=True)\n  time.sleep(100)"
    killed = run(f"with write_atomically(sys.argv[1]) as file:\n  file.write(b'half')\n  {wait}", tmp_path / "part-1")
    killed.stdout.readline()
    (tmp_path / f".mine.{HOST}.partial").write_text("no writer's")
    for end in (lambda: None, killed.kill):
        end()
        killed.wait() if end == killed.kill else None
        run("with write_atomically(sys.argv[1]) as file:\n file.write(b'whole')", tmp_path / "other").communicate()
        assert len(list(tmp_path.iterdir())) == (2 if end == killed.kill else 3)
    killed.communicate()


def test_outputs_replace_nothing_foreign(tmp_path):
    for name, content in (("ours", '{"ccq": 1}'), ("foreign", "my notes"), ("empty", "")):
        (tmp_path / name).write_text(content)
    check_output(tmp_path / "ours", '{"ccq":')
    check_output(tmp_path / "new" / "file", '{"ccq":')
    check_output(tmp_path / "foreign", '{"ccq":', force=True)
    for path, words in ((tmp_path / "foreign", "none of ours"), (tmp_path / "empty", "none of ours"),
                        (tmp_path, "is no file"), (tmp_path / "ours" / "below", "cannot write to")):  # fmt: skip
        with pytest.raises(StudyError, match=words):
            check_output(path, '{"ccq":')
    with pytest.raises(StudyError, match="is no file"):
        check_output("/dev/null", '{"ccq":', force=True)
    assert not (tmp_path / "new").exists()


def test_without_the_right_to_write_the_output_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    done = run("check_output(sys.argv[1], '')", tmp_path / "closed" / "a", preexec_fn=without_rights)
    assert "StudyError: cannot write to" in done.communicate()[1]


def without_rights():
    """Root passes over the modes of files by two capabilities; gone from the bounding set, they are gone after exec."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
