"""Folders of any content are read whole, or it is said what is left out, or they are refused in one line."""

import shutil
from pathlib import Path

import pytest
from attempts import attempt
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from fromnoise.data.images import load_images
from fromnoise.terminal import warn

pytestmark = pytest.mark.slow

FOLDERS = st.sampled_from(
    [
        "a",
        "b",
        "train",
        "test",
        "Test",
        "val",
        "car",
        "train-2",
        "dev set",
        "x[1]",
        "a::b",
        "x*",
        ".hidden",
        "é",
        "0",
        "7",
    ]
)
FILES = st.sampled_from(
    ["1.png", "2.PNG", "stress-test.png", "train.png", "x?.png", "ü.png", "1.jpg", ".hidden.png", "a.b.png", "x.webp"]
)
OTHERS = st.sampled_from(
    ["notes.txt", "metadata.csv", "z.zip", "x.eps", "model.bin", "a.json", "README.md", "Thumbs.db"]
)
PLACES = st.lists(FOLDERS, max_size=2).map(tuple)
TREES = st.dictionaries(st.tuples(PLACES, FILES), st.integers(0, 255), min_size=1, max_size=12)
JUNK = st.dictionaries(st.tuples(PLACES, OTHERS | FILES), st.binary(max_size=30), max_size=2)


@settings(
    max_examples=150,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tree=TREES, junk=JUNK, labelled=st.booleans())
def test_nothing_is_dropped_without_a_word(tmp_path: Path, capsys, tree, junk, labelled):
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    for (places, name), content in [*tree.items(), *junk.items()]:
        path = folder.joinpath(*places, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            Image.new("L", (8, 8), content).save(path)
        else:
            path.write_bytes(content)  # may take the place of a picture, which is broken then
    capsys.readouterr()
    warn.cache_clear()
    splits = [
        attempt(lambda split=split: load_images(str(folder), split, channels=1, size=8, labelled=labelled))
        for split in ("train", "test")
    ]
    said = capsys.readouterr().err
    if None not in splits:
        read = sorted(pixel for images in splits for pixel in images.pixels[:, 0, 0, 0].tolist())
        there = sorted(grey for key, grey in tree.items() if key not in junk)
        assert said or abs(len(read) - len(there)) == 0, f"{len(there)} pictures, {len(read)} read, nothing said"
        if len(read) == len(there) and not any(name.endswith((".jpg", ".webp")) for _, name in tree):
            assert read == there
