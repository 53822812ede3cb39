"""Training pictures: generated ones, and the photographs that come inside scikit-image.

Every picture is an (H, W, 3) uint8 array, a function of its generator alone. The generated kinds follow what is known
of natural images: occluding shapes with a power law of sizes (dead leaves: Lee, Mumford and Huang 2001), spectra that
fall as 1/f (Field 1987), shading that varies slowly, and strokes the width of print.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Picture = NDArray[np.uint8]
Plane = NDArray[np.float32]

COLOUR = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "motorcycle_right")
SCIENCE = ("retina", "ihc", "hubble_deep_field")
GREY = ("camera", "brick", "grass", "gravel", "moon", "coins", "page", "text")


@cache
def photographs() -> dict[str, Image.Image]:
    """The photographs that scikit-image carries inside its package (nothing is fetched), by name."""
    from pathlib import Path

    import skimage.data

    folder = Path(skimage.data.__file__).parent
    found = {}
    for name in COLOUR + SCIENCE + GREY:
        path = next(p for p in folder.glob(f"{name}.*") if p.suffix in {".png", ".jpg"})
        with Image.open(path) as picture:
            found[name] = picture.convert("RGB")
    return found


def one_over_f(rng: np.random.Generator, height: int, width: int, exponent: float) -> Plane:
    """A field with amplitude spectrum 1/f^exponent, stretched along a random direction; mean 0, deviation 1."""
    fy = np.fft.fftfreq(height)[:, None]
    fx = np.fft.rfftfreq(width)[None, :]
    angle, stretch = rng.uniform(0, np.pi), np.exp(abs(rng.normal(0, 0.5)))
    along = fx * np.cos(angle) + fy * np.sin(angle)
    across = (fy * np.cos(angle) - fx * np.sin(angle)) * stretch
    radius = np.sqrt(along**2 + across**2)
    radius[0, 0] = np.inf
    phase = rng.uniform(0, 2 * np.pi, radius.shape)
    field = np.fft.irfft2(np.exp(1j * phase) / radius**exponent, s=(height, width))
    return ((field - field.mean()) / (field.std() + 1e-9)).astype(np.float32)


def colour(rng: np.random.Generator) -> NDArray[np.float32]:
    """A colour in [0,1]: mostly muted, as in photographs, now and then pure."""
    grey = rng.beta(1.2, 1.2)
    spread = rng.choice([0.05, 0.15, 0.4], p=[0.45, 0.35, 0.2])
    return np.clip(grey + rng.normal(0, spread, 3), 0, 1).astype(np.float32)


def to_picture(values: NDArray[np.floating]) -> Picture:
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def noise(rng: np.random.Generator, size: int) -> Picture:
    """Clouds: three 1/f fields mixed into colours, sometimes with hard contrast."""
    exponent = rng.uniform(0.7, 2.2)
    fields = np.stack([one_over_f(rng, size, size, exponent) for _ in range(3)], -1)
    mixing = rng.normal(0, 1, (3, 3)) * np.array([[1.0], [0.35], [0.2]])
    mixing[0] = 1 + rng.normal(0, 0.25, 3)
    values = fields @ mixing.astype(np.float32) * rng.uniform(0.05, 0.3)
    if rng.random() < 0.3:
        values = np.tanh(values * rng.uniform(2, 12)) * rng.uniform(0.1, 0.5)
    return to_picture(values + colour(rng))


def pattern(rng: np.random.Generator, size: int) -> Plane:
    """Stripes, checks, dots or weave with a random pitch and direction, bent a little; values in [-1,1]."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    bend = one_over_f(rng, size, size, 1.8) * rng.uniform(0, 6)
    angle, pitch = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(3), np.log(40)))
    u = (x * np.cos(angle) + y * np.sin(angle) + bend) * (2 * np.pi / pitch)
    v = (y * np.cos(angle) - x * np.sin(angle) + bend) * (2 * np.pi / pitch / rng.uniform(0.5, 3))
    wave = [np.sin(u), np.sin(u) * np.sin(v), np.cos(u) + np.cos(v) - 1][rng.integers(3)]
    return np.tanh(wave * np.exp(rng.uniform(-0.5, 2.5))).astype(np.float32)


def texture(rng: np.random.Generator, size: int) -> Picture:
    """A surface: one colour or two, with 1/f grain, a pattern, or a piece of a photograph."""
    kind = rng.random()
    if kind < 0.3:
        return photograph(rng, size)
    base, other = colour(rng), colour(rng)
    grain = one_over_f(rng, size, size, rng.uniform(0.4, 2.0))[..., None] * rng.choice([0.01, 0.04, 0.12])
    if kind < 0.6:
        return to_picture(base + grain * (0.6 + 0.4 * other))
    blend = pattern(rng, size)[..., None] * 0.5 + 0.5
    return to_picture(base * blend + other * (1 - blend) + grain)


def shape(rng: np.random.Generator, radius: float) -> list[tuple[float, float]]:
    """The outline of a leaf around the origin: ellipse, polygon, rectangle or blob."""
    kind, turn, flat = rng.integers(4), rng.uniform(0, 2 * np.pi), np.exp(-abs(rng.normal(0, 0.6)))
    if kind == 0:
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        reach = np.ones_like(angles)
    elif kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        reach = rng.uniform(0.5, 1, angles.size)
    elif kind == 2:
        angles = np.array([0.25, 0.75, 1.25, 1.75]) * np.pi
        reach = np.ones(4)
    else:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        reach = np.full_like(angles, 0.75)
        for k in range(2, 6):
            reach += rng.normal(0, 0.22 / k) * np.cos(k * angles + rng.uniform(0, 6))
    px, py = reach * np.cos(angles), reach * np.sin(angles) * flat
    c, s = np.cos(turn), np.sin(turn)
    return [(float(radius * (a * c - b * s)), float(radius * (a * s + b * c))) for a, b in zip(px, py, strict=True)]


def dead_leaves(rng: np.random.Generator, size: int) -> Picture:
    """Overlapping textured, shaded shapes whose radii follow r^-3: edges, corners and flat parts at every scale."""
    big = size * 2
    surfaces = [texture(rng, big) for _ in range(rng.integers(4, 9))]
    canvas = Image.fromarray(surfaces[0])
    low, high = big * np.exp(rng.uniform(np.log(0.02), np.log(0.12))), big * rng.uniform(0.25, 0.8)
    mean_square = 2 * np.log(high / low) / (1 / low**2 - 1 / high**2)
    count = min(500, int(rng.uniform(0.3, 5) * big**2 / mean_square) + 1)
    radii = 1 / np.sqrt(rng.uniform(1 / high**2, 1 / low**2, count))
    for radius in np.sort(radii)[::-1] if rng.random() < 0.5 else radii:
        x, y = rng.uniform(-0.1, 1.1, 2) * big
        outline = [(x + a, y + b) for a, b in shape(rng, float(radius))]
        left, top = (int(max(0, min(p[i] for p in outline) - 2)) for i in (0, 1))
        right, bottom = (int(min(big, max(p[i] for p in outline) + 3)) for i in (0, 1))
        if right - left < 2 or bottom - top < 2:
            continue
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(a - left, b - top) for a, b in outline], fill=255)
        if rng.random() < 0.15:
            mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 8))))
        piece = surfaces[rng.integers(len(surfaces))][top:bottom, left:right].astype(np.float32) / 255
        if rng.random() < 0.6:
            piece = 0.35 * piece + 0.65 * piece * colour(rng) * 1.6
        slope = rng.normal(0, 0.5, 2)
        ramp = np.linspace(-slope[0], slope[0], bottom - top)[:, None] + np.linspace(-slope[1], slope[1], right - left)
        canvas.paste(Image.fromarray(to_picture(piece * (1 + 0.5 * ramp[..., None]))), (left, top), mask)
    small = canvas.resize((size, size), Image.Resampling.BOX)
    light = 1 + one_over_f(rng, size, size, 2.2)[..., None] * rng.uniform(0, 0.15)
    return to_picture(np.asarray(small, np.float32) / 255 * light)


def strokes(rng: np.random.Generator, size: int) -> Picture:
    """Rows of print and loose pen strokes over a surface."""
    canvas = Image.fromarray(texture(rng, size * 2))
    draw = ImageDraw.Draw(canvas)
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.;:!?-+")
    for _ in range(rng.integers(1, 5)):
        ink = tuple(int(c * 255) for c in colour(rng))
        if rng.random() < 0.6:
            pitch = int(np.exp(rng.uniform(np.log(12), np.log(90))))
            font = ImageFont.load_default(pitch)
            top, left = (int(v) for v in rng.uniform(-0.2, 0.8, 2) * size * 2)
            for row in range(rng.integers(1, 12)):
                draw.text((left, top + row * pitch * 1.2), "".join(rng.choice(letters, 60)), fill=ink, font=font)
        else:
            width = int(np.exp(rng.uniform(0, np.log(24))))
            points = rng.uniform(0, size * 2, (rng.integers(3, 30), 2))
            draw.line([tuple(p) for p in points.tolist()], fill=ink, width=width, joint="curve")
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


def photograph(rng: np.random.Generator, size: int) -> Picture:
    """A crop of a photograph at a random scale, turned, flipped, and with its colours moved."""
    pictures = photographs()
    names = [COLOUR, SCIENCE, GREY][rng.choice(3, p=[0.7, 0.12, 0.18])]
    source = pictures[str(rng.choice(names))]
    side = min(source.size)
    window = min(side, max(48, int(size * np.exp(rng.uniform(np.log(0.6), np.log(max(side / size, 0.7)))))))
    left, top = (int(rng.integers(0, extent - window + 1)) for extent in source.size)
    box = (left, top, left + window, top + window)
    crop = source.resize((size, size), Image.Resampling.LANCZOS, box=box)
    values: NDArray[np.float32] = np.asarray(crop, np.float32) / np.float32(255)
    values = np.rot90(values, int(rng.integers(4)))
    if rng.random() < 0.5:
        values = values[:, ::-1]
    if rng.random() < 0.7:
        values = recolour(rng, values)
    return to_picture(values)


def recolour(rng: np.random.Generator, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Another white balance, saturation, hue, contrast and gamma."""
    grey = values.mean(-1, keepdims=True)
    values = grey + (values - grey) * rng.uniform(0.2, 1.6)
    if rng.random() < 0.4:
        values = values[..., rng.permutation(3)]
    values = values * np.exp(rng.normal(0, 0.15, 3)).astype(np.float32)
    middle = values.mean()
    values = middle + (values - middle) * rng.uniform(0.5, 1.4) + rng.normal(0, 0.06)
    return np.clip(values, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.3)))


KINDS = ((dead_leaves, 0.4), (photograph, 0.37), (noise, 0.13), (strokes, 0.1))


def picture(rng: np.random.Generator, size: int) -> Picture:
    """One training picture of `size` × `size`, of a kind drawn at random."""
    kind = rng.choice(len(KINDS), p=[weight for _, weight in KINDS])
    values = KINDS[kind][0](rng, size)
    return values if rng.random() < 0.85 else values[::-1, ::-1].copy()
