"""Things for scenes that need no font of the system: cut-out pictures, and a tiny colour font with names beside it."""

from pathlib import Path

from fontTools.colorLib.builder import buildCOLR, buildCPAL
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

SHAPES = {"red car": (220, 30, 30), "green_frog": (40, 170, 60), "umbrella": (60, 60, 220), "owl": (140, 90, 40)}


def draw_cutouts(folder: Path, count: int = 12) -> Path:
    """Pictures of polygons with transparent surroundings, of different sizes and colours."""
    folder.mkdir()
    names = [*SHAPES, *(f"thing {word}" for word in ("a", "b", "c", "d", "e", "f", "g", "h"))][:count]
    for number, name in enumerate(names):
        picture = Image.new("RGBA", (60 + 3 * number, 50))
        colour = SHAPES.get(name, (20 * number, 255 - 20 * number, (80 * number) % 256))
        ImageDraw.Draw(picture).regular_polygon((30 + number, 25, 20), 3 + number, fill=(*colour, 255))
        picture.save(folder / f"{name}.png")
    return folder


EMOJI = "🎃🦥👩🏿🚀🐢🌮🍕☂"
NAMES = {
    "activities": "🎃 jack-o-lantern <small>(celebration, halloween, jack, jack-o-lantern, lantern)</small>",
    "animals_nature": "🦥 sloth <small>(lazy, sloth, slow)</small>\n🐢 turtle <small>(slow, terrapin)</small>\n🦁 lion",
    "food_drink": "🌮 taco <small>(mexican, taco)</small>\n🍕 pizza <small>(cheese, pizza, slice)</small>",
    "people_body": "👩 woman <small>(woman)</small>\n👩‍🚀 woman astronaut <small>(rocket, woman)</small>\n"
    "🤦‍♀️ woman facepalming\n👨‍👩‍👦 family: man, woman, boy",
    "travel_places": "🚀 rocket <small>(space)</small>\n☂️ umbrella\n🏁 chequered flag\n🕑 two o’clock",
    "objects": "",
    "smileys_emotion": "💯 hundred points",
}


def build_font(path: Path, *, coloured: bool = True) -> Path:
    """A COLR font with a polygon of its own for each of EMOJI, and another for the woman in a dark tone."""
    shapes = {f"g{number}": character for number, character in enumerate(EMOJI)}
    builder = FontBuilder(1000, isTTF=True)
    dark, astronaut, both = "dark", "astronaut", "both"
    order = [".notdef", *shapes, dark, astronaut, both]
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap({ord(character): name for name, character in shapes.items()} | {0x200D: "g3"})
    glyphs = {}
    for number, name in enumerate(order):
        pen = TTGlyphPen(None)
        if number:
            corners = [(100, 0), (900, 40 * number), (800, 800), (300, 900 - 50 * number)]
            pen.moveTo(corners[0])
            for corner in corners[1:]:
                pen.lineTo(corner)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (1000, 100 if number else 0) for number, name in enumerate(order)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Tiny Colour", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    woman, tone, rocket = (f"g{EMOJI.index(character)}" for character in "👩🏿🚀")
    joiner = "g3"
    builder.addOpenTypeFeatures(
        f"feature ccmp {{ sub {woman} {tone} {joiner} {rocket} by {both}; sub {woman} {joiner} {rocket} by {astronaut};"
        f" sub {woman} {tone} by {dark}; }} ccmp;"
    )
    if not coloured:
        builder.save(path)
        return path
    colours = [(number / 20, 1 - number / 20, (number % 3) / 2, 1.0) for number in range(len(order))]
    builder.font["COLR"] = buildCOLR({name: [(name, number)] for number, name in enumerate(order) if number})
    builder.font["CPAL"] = buildCPAL([colours])
    builder.save(path)
    return path
