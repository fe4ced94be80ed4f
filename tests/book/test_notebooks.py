"""The notebooks are those of the sources; and the comparison that `make check-book` makes can fail."""

import copy

import jupytext
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import notebooks
from bridge import BOOK, chapters

MEGABYTES = 8


@pytest.mark.parametrize("chapter", chapters(), ids=lambda path: path.stem)
def test_the_notebook_has_the_cells_of_its_source(chapter):
    ours, theirs = jupytext.read(chapter), nbformat.read(chapter.with_suffix(".ipynb"), 4)
    nbformat.validate(theirs)
    assert [(cell.cell_type, cell.source) for cell in theirs.cells] == [(c.cell_type, c.source) for c in ours.cells]
    assert all(cell.outputs or cell.execution_count for cell in theirs.cells if cell.cell_type == "code")
    assert not [o for cell in theirs.cells for o in cell.get("outputs", []) if o.output_type == "error"]


def test_the_notebooks_are_small_and_none_is_left_over():
    found = sorted(BOOK.glob("*.ipynb"))
    assert [path.stem for path in found] == [path.stem for path in chapters()]
    assert sum(path.stat().st_size for path in found) < MEGABYTES * 1e6


def notebook(text="loss 0.500", png=None, tags=(), source="f()"):
    outputs = [new_output("stream", name="stdout", text=text)]
    if png is not None:
        outputs.append(new_output("display_data", {"image/png": encoded(png)}))
    return new_notebook(
        cells=[new_markdown_cell("words"), new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})]
    )


def encoded(array):
    import base64
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


GREY = np.full((20, 30, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (notebook(), notebook(), None),
        (notebook(), notebook("loss 0.501"), None),
        (notebook(), notebook("loss 0.600"), "0.5 became 0.6"),
        (notebook(), notebook("lost 0.500"), "other words"),
        (notebook(), notebook("loss 0.500 1"), "other words"),
        (notebook(), notebook(source="g()"), "its cells are not those of the source"),
        (notebook(), notebook(png=GREY), "other kinds of output"),
        (notebook(png=GREY), notebook(png=GREY + 1), None),
        (notebook(png=GREY), notebook(png=GREY + 20), "another picture"),
        (notebook(png=GREY), notebook(png=GREY[:10]), "a picture of another size"),
        (notebook("1 s", tags=["varies"]), notebook("2 s", tags=["varies"]), None),
    ],
)
def test_differences(old, new, problem):
    found = notebooks.differences(copy.deepcopy(old), copy.deepcopy(new))
    assert found == [] if problem is None else problem in "".join(found)


def test_a_chapter_is_executed(tmp_path):
    source = tmp_path / "99-test.md"
    head = (BOOK / "00-start-here.md").read_text().split("# 0.")[0]
    source.write_text(head + "# Title\n\n```{code-cell} ipython3\nprint(1)\nprint(6 * 7)\n```\n")
    made, seconds = notebooks.execute(source)
    assert [output.text for output in made.cells[-1].outputs] == ["1\n42\n"]
    assert seconds > 0
    source.write_text(head + "# Title\n\n```{code-cell} ipython3\nassert 1 == 2\n```\n")
    with pytest.raises(Exception, match="AssertionError"):
        notebooks.execute(source)
