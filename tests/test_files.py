"""Files that are written whole or not at all."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from fromnoise.errors import UserError
from fromnoise.files import atomic_write, check_writable, remove_partial


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_it_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as partial:
        partial.write_text("whole")
        assert partial.parent.parent == path.parent  # so that it can be renamed
        assert partial.suffix == ".txt"
        assert not path.exists()
    assert listing(tmp_path) == ["new", "new/file.txt"]
    assert path.read_text() == "whole"


@pytest.mark.parametrize("place", ["file/below.png", "file/further/below.png"])
def test_a_place_that_cannot_be_written(place, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"^cannot write .*{place}: "), atomic_write(tmp_path / place):
        pass
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_other_errors_pass_through_and_leave_nothing(kind, tmp_path):
    def write():
        with atomic_write(tmp_path / "place") as partial:
            if kind == "folder":
                partial.mkdir()
            (partial / "x" if kind == "folder" else partial).write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert listing(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "below" / ".partial-1").mkdir(parents=True)
    (tmp_path / "below" / ".partial-1" / "x").touch()
    (tmp_path / ".partial-2.png").touch()
    (tmp_path / "kept").touch()
    remove_partial(tmp_path)
    assert listing(tmp_path) == ["below", "kept"]


def write(path, text="new"):
    with atomic_write(path) as partial:
        partial.write_text(text)


def test_two_processes_of_one_number_do_not_meet(tmp_path, monkeypatch):
    """In two containers both may be number 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "a.png"
    with atomic_write(path) as one, atomic_write(path) as another:
        assert one.parent != another.parent
        assert one.parent.stat().st_mode & 0o777 == 0o700
        one.write_text("one")
        another.write_text("another")
    assert path.read_text() == "one"


def test_links_are_followed(tmp_path):
    (tmp_path / "file").write_text("old")
    for name, target in {"link": "file", "dangling": "new/file", "again": "link"}.items():
        (tmp_path / name).symlink_to(target)
        write(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_text() == name
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-folder").symlink_to("folder")
    for name in ("loop", "to-folder", "folder", "x" * 300, ".."):
        with pytest.raises(UserError, match="^cannot write"):
            write(tmp_path / name)
    assert not [path for path in listing(tmp_path) if ".partial" in path]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "folder"

    def write():
        with atomic_write(path) as partial:
            partial.mkdir()
            path.mkdir()
            (path / "theirs").touch()

    with pytest.raises(UserError, match="^cannot write .*folder: Directory not empty"):
        write()
    assert listing(tmp_path) == ["folder", "folder/theirs"]


def test_a_pipe_gets_the_bytes(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="^cannot write .*pipe: "):
        write(pipe)  # that nobody reads
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    reader = threading.Thread(target=lambda: got.append(os.read(reading, 100)))
    write(pipe, "x" * 10)
    reader.start()
    reader.join(10)
    assert got == [b"x" * 10]
    os.close(reading)
    assert pipe.is_fifo()
    assert listing(tmp_path) == ["pipe"]


def test_devices(tmp_path):
    check_writable(Path("/dev/null"), "--json")
    write(Path("/dev/null"))
    with pytest.raises(UserError, match="^cannot write /dev/full: No space left on device"):
        write(Path("/dev/full"))
    (tmp_path / "link").symlink_to("/dev/null")
    write(tmp_path / "link")
    assert not Path("/dev/null").is_file() and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("file", "/dev/stdout"),
        ("file", "/proc/self/fd/1"),
        ("file", "out.txt"),
        ("pipe", "/dev/stdout"),
        ("pipe", "/proc/self/fd/1"),
    ],
)
def test_standard_output_keeps_what_is_printed(to, name, tmp_path):
    code = f"""
from pathlib import Path
from fromnoise.files import atomic_write
print("before")
with atomic_write(Path({name!r})) as partial:
    partial.write_text("between\\n")
print("after")
"""
    with (tmp_path / "out.txt").open("wb") as file:
        output = file if to == "file" else subprocess.PIPE
        result = subprocess.run([sys.executable, "-c", code], stdout=output, cwd=tmp_path, timeout=60, check=True)
    text = (tmp_path / "out.txt").read_bytes() if to == "file" else result.stdout
    assert text == b"before\nbetween\nafter\n"


def test_a_disk_is_no_place_for_a_file():
    disks = [Path(f"/dev/{entry.name}") for entry in Path("/sys/class/block").glob("*")]
    there = []
    for disk in disks:
        with suppress(OSError):
            there += [disk] if disk.is_block_device() else []
    if not there:
        pytest.skip("this machine shows no disk in /dev, as in some containers, and only a real one can be tried")
    with pytest.raises(UserError, match="it is a disk"):
        check_writable(there[0], "--json")
