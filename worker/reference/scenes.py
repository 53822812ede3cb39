"""Captioned training scenes: one thing of one colour on one ground, shaded and textured, drawn from a generator alone.

Pictures are (H, W, 3) uint8 arrays, coverage is (H, W) in [0,1]. The words are the nouns and adjectives that the
reference editor understands; the captions name them as a person would.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from worker.reference import pictures
from worker.reference.pictures import Picture, Plane, one_over_f

COLOURS = {  # hue, saturation, value
    "red": (0.0, 0.85, 0.8),
    "orange": (0.075, 0.9, 0.95),
    "yellow": (0.15, 0.85, 0.95),
    "green": (0.35, 0.75, 0.6),
    "blue": (0.61, 0.8, 0.8),
    "purple": (0.78, 0.65, 0.65),
    "white": (0.1, 0.04, 0.97),
    "black": (0.6, 0.15, 0.1),
}
THINGS = ("ball", "cube", "cone", "cylinder", "ring", "star", "heart", "cross")
GROUNDS = ("sand", "grass", "water", "snow", "stone", "wood", "brick", "cloth")
ARTICLE = {"orange": "an"}
Numbers = NDArray[np.floating]
OVERSAMPLING = 2
LEAST, MOST = 0.11, 0.21  # a thing's radius, of the picture's side


@dataclass(frozen=True)
class Scene:
    """A picture, where in it the thing lies, and what it shows."""

    picture: Picture
    coverage: Plane
    colour: str
    thing: str
    ground: str

    @property
    def caption(self) -> str:
        return f"{ARTICLE.get(self.colour, 'a')} {self.colour} {self.thing} on {self.ground}"


def scene(rng: np.random.Generator, size: int, colour: str = "", thing: str = "", ground: str = "") -> Scene:
    """A scene of `size` × `size`; what is not named is drawn."""
    colour = colour or str(rng.choice(list(COLOURS)))
    thing = thing or str(rng.choice(THINGS))
    ground = ground or str(rng.choice(GROUNDS))
    values = surface(rng, size, ground)
    light = np.array([rng.uniform(-0.8, 0.8), -rng.uniform(0.4, 0.9), rng.uniform(0.6, 1.0)])
    light /= np.linalg.norm(light)
    for _ in range(int(rng.choice(3, p=[0.6, 0.3, 0.1]))):  # others lie around, and may be covered
        values, _ = _put(rng, values, str(rng.choice(list(COLOURS))), str(rng.choice(THINGS)), light)
    values, coverage = _put(rng, values, colour, thing, light)
    return Scene(pictures.to_picture(values), coverage, colour, thing, ground)


def surface(rng: np.random.Generator, size: int, ground: str) -> Plane:
    """A ground (size,size,3) seen from above, with uneven light."""
    fine, coarse = one_over_f(rng, size, size, 0.5), one_over_f(rng, size, size, 1.6)
    ramp = np.linspace(-1, 1, size)[:, None] * rng.normal(0, 0.08) + np.linspace(-1, 1, size) * rng.normal(0, 0.08)
    grain = _grain(rng, size, ground, fine, coarse)
    base = np.array(BASES[ground]) * (1 + rng.normal(0, 0.04, 3))
    values = base * (1 + (grain + 0.04 * coarse + ramp)[..., None])
    return np.clip(values, 0, 1).astype(np.float32)


BASES = {
    "sand": (0.84, 0.73, 0.52),
    "grass": (0.33, 0.52, 0.18),
    "water": (0.16, 0.45, 0.58),
    "snow": (0.91, 0.93, 0.97),
    "stone": (0.52, 0.52, 0.51),
    "wood": (0.56, 0.37, 0.21),
    "brick": (0.62, 0.3, 0.22),
    "cloth": (0.72, 0.62, 0.7),
}


def _grain(rng: np.random.Generator, size: int, ground: str, fine: Plane, coarse: Plane) -> Plane:
    """The relative brightness of a ground's texture, around 0."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    bend = coarse * 4
    if ground == "sand":
        return 0.07 * fine + 0.05 * np.sin((y + bend * 2) * 2 * np.pi / rng.uniform(9, 16))
    if ground == "grass":
        return 0.6 * _photographed(rng, size, "grass") + 0.05 * fine
    if ground == "water":
        waves = np.sin((y + bend * 3) * 2 * np.pi / rng.uniform(8, 14) + np.sin(x * 2 * np.pi / rng.uniform(30, 60)))
        return 0.18 * waves + 0.12 * np.clip(waves, 0.6, 1) * (1 + 0.5 * coarse)
    if ground == "snow":
        return 0.05 * coarse + 0.015 * fine
    if ground == "stone":
        return 0.6 * _photographed(rng, size, "gravel")
    if ground == "wood":
        rings = np.sin((x + bend * 3 + 0.1 * y) * 2 * np.pi / rng.uniform(7, 13))
        planks = (np.floor(y / (size * rng.uniform(0.2, 0.35))) % 2) * 0.12
        return 0.12 * rings + 0.04 * fine + planks - 0.06
    if ground == "brick":
        return 0.6 * _photographed(rng, size, "brick")
    pitch = rng.uniform(9, 16)
    return 0.1 * np.sign(np.sin(x * 2 * np.pi / pitch)) * np.sign(np.sin(y * 2 * np.pi / pitch)) + 0.03 * fine


def _photographed(rng: np.random.Generator, size: int, name: str) -> Plane:
    """Relative brightness of a crop of a texture that scikit-image carries, in about [-0.5,0.5]."""
    source = pictures.photographs()[name]
    side = int(min(source.size) * rng.uniform(0.35, 0.9))
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in source.size)
    crop = source.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)).convert("L")
    values: Plane = np.asarray(crop, np.float32) / np.float32(255)
    return values / values.mean() * 0.5 - 0.5


def _put(
    rng: np.random.Generator, values: Plane, colour: str, thing: str, light: NDArray[np.float64]
) -> tuple[Plane, Plane]:
    """The picture with a thing on it, and the thing's coverage."""
    size = len(values)
    radius = float(rng.uniform(LEAST, MOST)) * size
    middle = rng.uniform(radius * 1.1, size - radius * 1.1, 2)
    pixels = np.arange(size * OVERSAMPLING, dtype=np.float32) / OVERSAMPLING
    x, y = np.meshgrid((pixels - middle[0]) / radius, (pixels - middle[1]) / radius)
    tilt = rng.uniform(-0.35, 0.35)
    inside, shade = _drawn(thing, x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt), light)
    coverage = _reduced(inside.astype(np.float32))
    hue, saturation, value = np.array(COLOURS[colour]) + rng.normal(0, (0.012, 0.05, 0.04))
    base = np.array(colorsys.hsv_to_rgb(hue % 1, *np.clip((saturation, value), 0, 1)))
    grain = 1 + one_over_f(rng, size, size, rng.uniform(0.6, 1.8)) * rng.choice([0.02, 0.05, 0.1])
    gloss = rng.choice([0.0, 0.35, 0.7]) * np.clip((shade - 0.85) / 0.15, 0, 1) ** 3
    body = base * (0.35 + 0.75 * _reduced(shade) * grain)[..., None] + 0.6 * _reduced(gloss)[..., None]
    shadow = Image.new("L", (size, size))
    shift = -light[:2] * radius * 0.35
    box = [middle[0] - radius + shift[0], middle[1] - radius * 0.9 + shift[1]]
    ImageDraw.Draw(shadow).ellipse([*box, box[0] + radius * 2, box[1] + radius * 1.9], fill=110)
    dark = np.asarray(shadow.filter(ImageFilter.GaussianBlur(radius * 0.12)), np.float32)[..., None] / 255
    under = values * (1 - dark)
    cover = coverage[..., None]
    return (under * (1 - cover) + np.clip(body, 0, 1) * cover).astype(np.float32), coverage


def _reduced(plane: Plane) -> Plane:
    side = len(plane) // OVERSAMPLING
    return plane.reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean((1, 3))


def _drawn(thing: str, x: Plane, y: Plane, light: NDArray[np.float64]) -> tuple[NDArray[np.bool_], Plane]:
    """Where a thing of radius 1 around the origin covers the plane, and how brightly it is lit there, in [0,1]."""
    reach = np.hypot(x, y)
    if thing == "ball":
        return reach < 1, _lit(x, y, np.sqrt(np.clip(1 - reach**2, 0, 1)), light)
    if thing == "ring":
        tube = np.clip((reach - 0.7) / 0.28, -1, 1)
        away = tube / np.maximum(reach, 1e-3)
        return np.abs(reach - 0.7) < 0.28, _lit(x * away, y * away, np.sqrt(1 - tube**2), light)
    if thing == "cube":
        top, slope = y + np.abs(x) * 0.577 < 0, np.abs(x) * 0.577
        faces = np.where(top, 1.0, np.where((x < 0) == (light[0] < 0), 0.65, 0.3))
        return (np.abs(x) < 0.866) & (np.abs(y) + slope < 1), faces.astype(np.float32)
    if thing == "cone":
        half = np.clip((y + 1) / 1.6, 1e-3, 1) * 0.85
        side = (np.abs(x) < half) & (y > -1) & (y < 0.6)
        foot = (x / 0.85) ** 2 + ((y - 0.6) / 0.25) ** 2 < 1
        return side | foot, _round(x / half, light)
    if thing == "cylinder":
        lid = (x / 0.68) ** 2 + ((y + 0.7) / 0.24) ** 2 < 1
        side = (np.abs(x) < 0.68) & (y > -0.7) & (y < 0.7)
        foot = (x / 0.68) ** 2 + ((y - 0.7) / 0.24) ** 2 < 1
        return lid | side | foot, np.where(lid, np.float32(0.95), _round(x / 0.68, light) * np.float32(0.85))
    if thing == "star":
        turn = (np.arctan2(x, -y) / (2 * np.pi) * 5) % 1
        beside = (0.5 - np.abs(turn - 0.5)) * (2 * np.pi / 5)  # the angle to the nearest arm
        inner = 0.5 * np.exp(1j * np.pi / 5)  # the corner between two arms
        edge = inner.imag / ((1 - inner.real) * np.sin(beside) + inner.imag * np.cos(beside))
        return reach < edge, np.where(turn < 0.5, 0.95, 0.6).astype(np.float32)
    if thing == "heart":
        u, v = x * 1.15, -y * 1.15 + 0.1
        return (u**2 + v**2 - 1) ** 3 - u**2 * v**3 < 0, _lit(x * 0.7, y * 0.7, np.full_like(x, 0.7), light)
    arms = (np.minimum(np.abs(x), np.abs(y)) < 0.3) & (np.maximum(np.abs(x), np.abs(y)) < 0.95)
    return arms, np.clip(0.75 + 0.25 * (x * light[0] + y * light[1]), 0, 1).astype(np.float32)


def _lit(x: Numbers, y: Numbers, z: Numbers, light: NDArray[np.float64]) -> Plane:
    lit: Plane = np.clip(x * light[0] + y * light[1] + z * light[2], 0, 1).astype(np.float32)
    return lit


def _round(across: Plane, light: NDArray[np.float64]) -> Plane:
    """Light on an upright round body; `across` runs from -1 to 1 over its width."""
    u = np.clip(across, -1, 1)
    return _lit(u, np.zeros_like(u), np.sqrt(1 - u**2), light)
