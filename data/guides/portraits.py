"""The stroke paintings: twelve portraits, each painted from scratch with a thick brush.

They follow the layout measured on the bundled pictures: the figure lies between 0.06 and 0.94 of the canvas,
shoulders end in a straight line at 0.93; a bust has its eyes at (0.42, 0.34) and (0.58, 0.34), its chin at
0.53 and shoulders 0.7 wide; a head alone has its eyes at (0.37, 0.54) and (0.63, 0.54), its chin at 0.93.
Colours are those of the pictures, in the middle between their light and shaded sides.
"""

from __future__ import annotations

from collections.abc import Callable

from brush import Brush, Colour, ellipse

LIGHT = (246, 203, 182)
TAN = (224, 167, 142)
BROWN = (160, 113, 105)
DARK = (92, 60, 60)
YELLOW = (254, 190, 48)
BLACK = (44, 38, 46)
WHITE = (240, 234, 242)
LIPS = (140, 22, 80)

# fmt: off
DOME = [
    (0.5, 0.55), (0.66, 0.57), (0.78, 0.66), (0.84, 0.78), (0.85, 0.88), (0.68, 0.92),
    (0.5, 0.94), (0.32, 0.92), (0.15, 0.88), (0.16, 0.78), (0.22, 0.66), (0.34, 0.57),
]
HEAD = [
    (0.5, 0.2), (0.74, 0.25), (0.8, 0.5), (0.76, 0.78), (0.62, 0.93),
    (0.38, 0.93), (0.24, 0.78), (0.2, 0.5), (0.26, 0.25),
]
# fmt: on


def shoulders(brush: Brush, colour: Colour, shade: Colour) -> None:
    """Paint a coat: a dome from the neck to the straight lower edge, with a darker stroke for each sleeve."""
    brush.fill(DOME, 0.13, colour)
    brush.stroke([(0.23, 0.86), (0.24, 0.74)], 0.08, shade)
    brush.stroke([(0.77, 0.86), (0.76, 0.74)], 0.08, shade)


def face(brush: Brush, skin: Colour, y: float = 0.34) -> None:
    """Paint the face of a bust: neck, head, two dabs for each eye, one stroke for the mouth."""
    shade = (int(skin[0] * 0.87), int(skin[1] * 0.82), int(skin[2] * 0.84))
    brush.stroke([(0.5, y + 0.14), (0.5, y + 0.23)], 0.14, shade)
    brush.fill(ellipse(0.5, y, 0.18, 0.2), 0.11, skin, angle=80)
    for x in (0.42, 0.58):
        brush.stroke([(x - 0.025, y), (x + 0.025, y)], 0.05, (248, 242, 242))
        brush.stroke([(x, y), (x, y + 0.005)], 0.04, BLACK)
    brush.stroke([(0.45, y + 0.11), (0.5, y + 0.122), (0.55, y + 0.11)], 0.034, LIPS)


def head(brush: Brush, skin: Colour, brow: Colour) -> None:
    """Paint a head without shoulders, twice as large: ears, head, brows, eyes, mouth."""
    shade = (int(skin[0] * 0.9), int(skin[1] * 0.86), int(skin[2] * 0.88))
    brush.stroke([(0.19, 0.55), (0.19, 0.6)], 0.12, shade)
    brush.stroke([(0.81, 0.55), (0.81, 0.6)], 0.12, shade)
    brush.fill(HEAD, 0.15, skin)
    for x in (0.37, 0.63):
        brush.stroke([(x - 0.07, 0.44), (x, 0.42), (x + 0.07, 0.44)], 0.05, brow)
        brush.stroke([(x - 0.04, 0.54), (x + 0.04, 0.54)], 0.07, (250, 246, 246))
        brush.stroke([(x, 0.535), (x, 0.55)], 0.07, BLACK)
    brush.stroke([(0.41, 0.73), (0.5, 0.76), (0.59, 0.73)], 0.05, LIPS)


def red_hat(brush: Brush) -> None:
    """A woman in a wide red hat and a blue coat."""
    shoulders(brush, (62, 140, 222), (48, 110, 190))
    brush.stroke([(0.33, 0.26), (0.3, 0.4), (0.33, 0.52)], 0.12, BLACK)
    brush.stroke([(0.67, 0.26), (0.7, 0.4), (0.67, 0.52)], 0.12, BLACK)
    face(brush, LIGHT, y=0.36)
    brush.fill([(0.35, 0.22), (0.36, 0.1), (0.43, 0.05), (0.57, 0.05), (0.64, 0.1), (0.65, 0.22)], 0.1, (226, 52, 78))
    brush.stroke([(0.22, 0.24), (0.36, 0.21), (0.5, 0.2), (0.64, 0.21), (0.78, 0.24)], 0.1, (206, 42, 68))


def blue_hair(brush: Brush) -> None:
    """Blue hair, a white coat with a purple collar."""
    shoulders(brush, (236, 230, 244), (208, 200, 224))
    face(brush, TAN)
    brush.stroke([(0.46, 0.58), (0.5, 0.66)], 0.07, (130, 90, 190))
    brush.stroke([(0.54, 0.58), (0.5, 0.66)], 0.07, (130, 90, 190))
    bob = [(0.31, 0.42), (0.3, 0.28), (0.36, 0.17), (0.5, 0.13), (0.64, 0.17), (0.7, 0.28), (0.69, 0.42)]
    brush.stroke(bob, 0.12, (48, 126, 224))
    brush.stroke([(0.36, 0.22), (0.48, 0.2), (0.6, 0.22)], 0.08, (74, 156, 240))


def green_coat(brush: Brush) -> None:
    """Short fair hair and a green coat with a yellow scarf."""
    shoulders(brush, (62, 168, 92), (42, 128, 80))
    face(brush, LIGHT)
    brush.stroke([(0.37, 0.58), (0.5, 0.62), (0.63, 0.58)], 0.09, (248, 196, 70))
    brush.stroke([(0.56, 0.62), (0.58, 0.76)], 0.08, (240, 184, 60))
    brush.stroke([(0.33, 0.28), (0.36, 0.17), (0.5, 0.12), (0.63, 0.16), (0.67, 0.27)], 0.1, (245, 214, 140))


def long_blond_hair(brush: Brush) -> None:
    """Long blond hair over a purple dress."""
    shoulders(brush, (146, 94, 212), (116, 72, 176))
    brush.stroke([(0.34, 0.22), (0.27, 0.4), (0.28, 0.6), (0.25, 0.74)], 0.15, (248, 216, 150))
    brush.stroke([(0.66, 0.22), (0.73, 0.4), (0.72, 0.6), (0.75, 0.74)], 0.15, (248, 216, 150))
    face(brush, LIGHT)
    brush.stroke([(0.33, 0.3), (0.38, 0.18), (0.5, 0.13), (0.62, 0.18), (0.67, 0.3)], 0.11, (252, 226, 166))


def old_man(brush: Brush) -> None:
    """Bald, with white side hair, glasses, a white beard and a brown coat."""
    shoulders(brush, (126, 92, 80), (98, 70, 64))
    face(brush, LIGHT, y=0.32)
    brush.stroke([(0.33, 0.27), (0.32, 0.38)], 0.08, WHITE)
    brush.stroke([(0.67, 0.27), (0.68, 0.38)], 0.08, WHITE)
    brush.fill([(0.36, 0.43), (0.5, 0.41), (0.64, 0.43), (0.63, 0.6), (0.5, 0.74), (0.37, 0.6)], 0.1, WHITE, angle=85)
    brush.stroke([(0.46, 0.45), (0.54, 0.45)], 0.035, LIPS)
    for x in (0.42, 0.58):
        brush.stroke(ellipse(x, 0.32, 0.06, 0.055) + ellipse(x, 0.32, 0.06, 0.055)[:1], 0.028, (84, 76, 108))
    brush.stroke([(0.48, 0.315), (0.52, 0.315)], 0.026, (84, 76, 108))


def purple_headscarf(brush: Brush) -> None:
    """A brown face in a purple headscarf."""
    shoulders(brush, (116, 80, 172), (96, 66, 148))
    brush.fill(ellipse(0.5, 0.36, 0.25, 0.29), 0.13, (134, 92, 194))
    face(brush, BROWN, y=0.35)
    brush.stroke([(0.3, 0.5), (0.4, 0.6), (0.56, 0.62), (0.69, 0.5)], 0.12, (146, 104, 206))
    brush.stroke([(0.3, 0.74), (0.5, 0.76), (0.66, 0.66)], 0.1, (134, 92, 194))


def orange_bun(brush: Brush) -> None:
    """Dark skin, orange hair in a bun, a red coat."""
    shoulders(brush, (224, 58, 88), (184, 44, 82))
    brush.fill(ellipse(0.5, 0.13, 0.12, 0.08), 0.09, (232, 118, 52))
    face(brush, DARK, y=0.38)
    brush.stroke([(0.32, 0.38), (0.35, 0.26), (0.5, 0.2), (0.65, 0.26), (0.68, 0.38)], 0.11, (222, 104, 46))


def crown(brush: Brush) -> None:
    """Black hair, a golden crown with dabs for jewels, a turquoise gown."""
    shoulders(brush, (54, 170, 178), (40, 132, 152))
    brush.stroke([(0.32, 0.32), (0.29, 0.46), (0.31, 0.6)], 0.12, BLACK)
    brush.stroke([(0.68, 0.32), (0.71, 0.46), (0.69, 0.6)], 0.12, BLACK)
    face(brush, TAN, y=0.41)
    brush.stroke([(0.33, 0.34), (0.4, 0.27), (0.6, 0.27), (0.67, 0.34)], 0.09, BLACK)
    brush.stroke([(0.31, 0.22), (0.5, 0.235), (0.69, 0.22)], 0.08, (232, 166, 66))
    for x, top in ((0.3, 0.13), (0.4, 0.11), (0.5, 0.08), (0.6, 0.11), (0.7, 0.13)):
        brush.stroke([(x, 0.2), (x, top)], 0.06, (240, 178, 70))
    for x, jewel in ((0.39, (64, 160, 226)), (0.5, (222, 44, 78)), (0.61, (64, 160, 226))):
        brush.stroke([(x, 0.22)], 0.05, jewel)


def yellow_helmet(brush: Brush) -> None:
    """A builder: yellow helmet, orange waistcoat with yellow stripes."""
    shoulders(brush, (246, 124, 58), (226, 100, 52))
    brush.stroke([(0.37, 0.62), (0.37, 0.87)], 0.08, (250, 206, 72))
    brush.stroke([(0.63, 0.62), (0.63, 0.87)], 0.08, (250, 206, 72))
    face(brush, BROWN, y=0.37)
    brush.fill(
        [(0.31, 0.26), (0.34, 0.14), (0.42, 0.07), (0.58, 0.07), (0.66, 0.14), (0.69, 0.26)],
        0.1,
        (250, 208, 66),
    )
    brush.stroke([(0.28, 0.26), (0.5, 0.245), (0.72, 0.26)], 0.065, (236, 178, 50))


def red_beard(brush: Brush) -> None:
    """A large head with a red beard and red hair."""
    head(brush, LIGHT, (150, 70, 44))
    brush.stroke([(0.22, 0.62), (0.26, 0.8), (0.4, 0.89), (0.6, 0.89), (0.74, 0.8), (0.78, 0.62)], 0.14, (200, 96, 54))
    brush.stroke([(0.38, 0.69), (0.5, 0.66), (0.62, 0.69)], 0.07, (186, 84, 48))
    brush.stroke(
        [(0.2, 0.44), (0.22, 0.24), (0.38, 0.14), (0.62, 0.14), (0.78, 0.24), (0.8, 0.44)],
        0.15,
        (208, 104, 58),
    )


def green_hair(brush: Brush) -> None:
    """A large yellow head with bobbed green hair."""
    brush.fill(ellipse(0.5, 0.54, 0.42, 0.4), 0.16, (50, 140, 84), angle=85)
    head(brush, YELLOW, (150, 90, 30))
    brush.stroke([(0.16, 0.84), (0.13, 0.6), (0.18, 0.34), (0.34, 0.17), (0.52, 0.13)], 0.15, (60, 160, 94))
    brush.stroke([(0.84, 0.84), (0.87, 0.6), (0.82, 0.34), (0.66, 0.17), (0.5, 0.14)], 0.15, (60, 160, 94))
    brush.stroke([(0.28, 0.3), (0.46, 0.25), (0.7, 0.3)], 0.12, (74, 178, 108))


def five_strokes(brush: Brush) -> None:
    """A blank canvas and five strokes: coat, neck, face, hair."""
    brush.stroke([(0.2, 0.86), (0.34, 0.68), (0.5, 0.64), (0.66, 0.68), (0.8, 0.86)], 0.15, (238, 112, 50))
    brush.stroke([(0.33, 0.86), (0.66, 0.85)], 0.17, (246, 124, 58))
    brush.stroke([(0.5, 0.5), (0.5, 0.58)], 0.14, (206, 150, 128))
    brush.stroke([(0.43, 0.28), (0.43, 0.42), (0.57, 0.42), (0.57, 0.28), (0.5, 0.3)], 0.17, TAN)
    brush.stroke([(0.32, 0.3), (0.37, 0.18), (0.5, 0.13), (0.63, 0.18), (0.68, 0.3)], 0.12, (74, 48, 44))


PORTRAITS: dict[str, Callable[[Brush], None]] = {
    painting.__name__: painting
    for painting in (
        red_hat,
        blue_hair,
        green_coat,
        long_blond_hair,
        old_man,
        purple_headscarf,
        orange_bun,
        crown,
        yellow_helmet,
        red_beard,
        green_hair,
        five_strokes,
    )
}
