"""A chapter that was opened without the rest of the book says in its first cell of code what to run."""

import os
import re
import subprocess
import sys

import jupytext
import pytest

from bridge import BOOK, chapters

CELL = r"^```\{code-cell\} ipython3\n:tags: \[remove-cell\]\n\n(.*?)^```$"
(FIRST,) = re.findall(CELL, (BOOK / "00-start-here.md").read_text(), re.MULTILINE | re.DOTALL)
WITH_IT = [chapter for chapter in chapters() if "[remove-cell]" in chapter.read_text()]


def run(folder, code=FIRST):
    """What a bare Python, without any package, makes of the cell in a folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("chapter", WITH_IT, ids=lambda path: path.stem)
def test_it_is_the_first_cell_of_code_and_the_same_in_each_chapter(chapter):
    first, *others = [cell for cell in jupytext.read(chapter).cells if cell.cell_type == "code"]
    assert first.source == FIRST.rstrip("\n")
    assert first.metadata["tags"] == ["remove-cell"]
    assert not [cell for cell in others if "remove-cell" in cell.metadata.get("tags", [])]


def test_every_chapter_has_it():
    assert chapters() == WITH_IT


def test_in_an_empty_folder_it_says_what_to_run(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 1
    assert "!git clone --depth 1 ADDRESS fromnoise\n" in done.stderr
    assert "%pip install --quiet './fromnoise[results]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_beside_the_repository_it_goes_to_the_chapters(tmp_path):
    book = tmp_path / "fromnoise" / "book"
    book.mkdir(parents=True)
    (book / "bridge.py").touch()
    assert run(tmp_path).returncode == 1  # the package is not installed: the folder of that name is no package
    (book / "fromnoise.py").touch()
    done = run(tmp_path, FIRST + "print(os.getcwd())")
    assert (done.returncode, done.stdout.strip()) == (0, str(book))
    assert run(book).returncode == 0  # and in the folder of chapters it changes nothing
