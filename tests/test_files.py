"""Files that are written whole or not at all."""

import pytest

from fromnoise.errors import UserError
from fromnoise.files import atomic_write, remove_partial


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
