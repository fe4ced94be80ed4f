"""The reader takes what a dataclass says, converts nothing, and names the file and the key of what it refuses."""

import json
import math
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Lt

from fromnoise.configs import Count, Counts, Fraction, load, parse, read
from fromnoise.errors import UserError


@dataclass(frozen=True)
class Inner:
    count: Count = 1
    whole: Annotated[int, Lt(2**63)] = 0
    real: float = 0.5
    fraction: Fraction = 0.5
    flag: bool = False
    text: str = ""
    maybe: str | None = "x"
    counts: Counts = (1, 2)
    pair: Count | tuple[Count, Count] = 1
    one_or_three: Literal[1, 3] = 1
    off: Literal[False, None] = False
    names: dict[str, str] = field(default_factory=dict)
    nothing: None = None


@dataclass(frozen=True)
class Outer:
    needed: int
    inner: Inner = field(default_factory=Inner)


def refusal(values: Any) -> str:
    """The one line with which these values are refused."""
    with pytest.raises(UserError) as caught:
        read(Outer, values, "mine.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("real", 3, 3.0),
        ("real", -1.5e300, -1.5e300),
        ("real", 0.1 + 0.2, 0.1 + 0.2),
        ("whole", -(2**70), -(2**70)),
        ("fraction", 1, 1.0),
        ("text", "a\n\N{DOG FACE}", "a\n\N{DOG FACE}"),
        ("maybe", None, None),
        ("counts", [3], (3,)),
        ("counts", (3, 4), (3, 4)),
        ("pair", [8, 9], (8, 9)),
        ("one_or_three", 3, 3),
        ("off", None, None),
        ("names", {"0": "cat", "a.b": "dog"}, {"0": "cat", "a.b": "dog"}),
    ],
)
def test_what_fits_is_taken(key, value, taken):
    config = read(Outer, {"needed": 7, "inner": {key: value}}, "mine.toml")
    found = getattr(config.inner, key)
    assert (found, type(found)) == (taken, type(taken))
    assert config == Outer(7, Inner(**{key: taken})), "what is left out takes the default"
    assert read(Outer, asdict(config), "again") == config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("count", True),
        ("count", 1.0),
        ("count", "1"),
        ("count", None),
        ("count", 0),
        ("whole", 2**63),
        ("real", True),
        ("real", "0.5"),
        ("real", math.nan),
        ("real", math.inf),
        ("fraction", math.nan),
        ("fraction", -0.1),
        ("fraction", 2),
        ("flag", 1),
        ("flag", "yes"),
        ("text", 3),
        ("text", date(2024, 1, 1)),
        ("counts", []),
        ("counts", 3),
        ("counts", "12"),
        ("pair", [8]),
        ("pair", [8, 9, 10]),
        ("one_or_three", 2),
        ("one_or_three", True),
        ("one_or_three", 1.0),
        ("off", True),
        ("off", 0),
        ("names", ["cat"]),
        ("nothing", False),
    ],
)
def test_what_does_not_fit_is_refused_by_name(key, value):
    found = json.dumps({"date": str(value)} if isinstance(value, date) else value)
    assert refusal({"needed": 7, "inner": {key: value}}).startswith(
        f"mine.toml: inner.{key}: {found} is not supported: "
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"needed": 7, "inner": {"counts": [1, "a"]}},
            'inner.counts.1: "a" is not supported: it should be a valid int',
        ),
        ({"needed": 7, "inner": {"names": {"0": 1}}}, "inner.names.0: 1 is not supported: it should be a valid string"),
        ({"needed": 7, "inner": {"counts": [True]}}, "inner.counts.0: true is not supported: "),
        ({"needed": 7, "inner": {"off": 0}}, "inner.off: 0 is not supported: it should be False"),
        ({"needed": 7, "inner": {"pair": "8"}}, 'inner.pair: "8" is not supported: it should be a valid integer or '),
        ({"needed": 7, "inner": 3}, "inner: 3 is not supported"),
        ({"needed": 7, "inner": {"counst": 3}}, "unknown key inner.counst"),
        ({"needed": 7, "_private": 3}, "unknown key _private"),
        ({}, "needed is missing"),
        ({"needed": "\ud800"}, "Invalid JSON: "),
    ],
)
def test_the_message_says_where_and_what(values, message):
    assert refusal(values).startswith(f"mine.toml: {message}")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.toml", b"[train", " is not valid TOML: "),
        ("a.json", b"{", " is not valid JSON: "),
        ("a.json", b"[1]", " is not a JSON object"),
        ("a.json", b"[" * 100_000, " is not valid JSON: "),
        ("a.json", b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", " is not valid JSON: more than 32 "),
        ("a.json", b'{"a": {"b": 1, "c": 2, "b": 1}}', " is not valid JSON: the key b is there twice"),
        ("a.json", b'{"a": ' + b"9" * 4000 + b"}", " is not valid JSON: a whole number of more than 1024 bits"),
        ("a.json", b'{"a": ' + b"9" * 5000 + b"}", " is not valid JSON: "),
        ("a.toml", b".".join([b"a"] * 40) + b" = 1", " is not valid TOML: more than 32 "),
        ("a.toml", b".".join([b"a"] * 100_000) + b" = 1", " is not valid TOML: more than 200 dots"),
        ("a.toml", b"a = 0x" + b"f" * 100_000, " is not valid TOML: a whole number of more than 1024 bits"),
        ("a.toml", b"a = 1\na = 2", " is not valid TOML: "),
        ("a.json", b" " * (2**20 + 1), " is larger than "),
        ("a.toml", b"\xff\xfe", ": "),
        ("folder.toml", None, ": Is a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, problem, tmp_path):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(path)
    assert f"{path}{problem}" in str(caught.value)
    with pytest.raises(UserError, match="none.toml is missing"):
        load(tmp_path / "none.toml")


def test_toml_and_json_say_the_same(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff{"needed": 7, "inner": {"counts": [3, 4]}}', encoding="utf-8")  # Windows
    table = parse("needed = 7\n[inner]\ncounts = [3, 4]", "TOML", "here")
    assert load(tmp_path / "a.json") == table
    assert read(Outer, table, "here") == Outer(7, Inner(counts=(3, 4)))


@pytest.mark.parametrize(
    "values",
    [
        {"needed": "x" * 10_000},
        {"needed": 7, "x" * 10_000: 1},
        {"needed": 7, "inner": {"names": {"x" * 10_000: 1}}},
        {"needed": 7, "inner": {"counts": ["x"] * 10_000}},
        {"needed": 7, "inner": {"names": {"\x1b[2J\n": 1}}},
        {"needed": 7, "\x1b[2J\n\u202e": 1},
    ],
    ids=lambda values: str(values)[:20],
)
def test_what_a_message_quotes_does_not_fill_or_steer_the_terminal(values):
    message = refusal(values)
    assert len(message) < 400
    assert message.isprintable()
    assert message.startswith("mine.toml: ")


def test_a_message_keeps_its_beginning_and_its_end():
    assert str(UserError("a file \x1b[1m\tof 9\u00a0MB\x00\udcff")) == "a file \\x1b[1m of 9 MB\\x00\\udcff"
    long = str(UserError("begin " + "x" * 5000 + " end"))
    assert long.startswith("begin ")
    assert long.endswith(" end")
    assert len(long) <= 500
