"""Writing files: whole or not at all."""

import errno
import threading

import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import write_atomically


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
