"""The figures of the data set `shapes`: their outlines and their textures.

A figure is drawn from `(rng, size)`: `size` is about the longer side of its upright box in pixels. Teeth, spikes and
bands keep a pitch of a few pixels at every size, so a large figure has many of them: what a 28x28 mask cannot hold.
Coordinates here are the figure's own, in pixels around its middle, x to the right and y down.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Random = np.random.Generator
Paint = Callable[[Array, Array], Array]

JOINTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
KEYPOINTS = ["nose", *(f"{side}_{joint}" for joint in JOINTS for side in ("left", "right"))]  # COCO's order
# COCO's own drawing order, 1-based
SKELETON = [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10]]
SKELETON += [[9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]]


@dataclass(frozen=True)
class Figure:
    """One figure before it is placed.

    Attributes:
        parts: rings (n, 2), each filled; the figure is their union.
        holes: rings (n, 2) cut out of it.
        paint: (u, v), both (n,), in the figure's own coordinates -> RGB (n, 3), 0..255.
        keypoints: (17, 2) in COCO's order, or None.
    """

    parts: tuple[Array, ...]
    paint: Paint
    holes: tuple[Array, ...] = ()
    keypoints: Array | None = None


def colour(hue: float, saturation: float, value: float) -> Array:
    """Hue in degrees, the others 0..1 -> RGB (3,), 0..255."""
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32) * 255


def mix(a: Array, b: Array, share: Array) -> Array:
    """Colours `a` and `b` (3,), mixed pixel by pixel with the share (n,) of `b`."""
    mixed: Array = (a[:, None] + share.astype(np.float32) * (b - a)[:, None]).T  # rows of 3 would be 3 times as slow
    return mixed


def polar(radius: Array, angle: Array) -> Array:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def ellipse(rx: float, ry: float, x: float = 0.0, y: float = 0.0) -> Array:
    turn = np.linspace(0, 2 * np.pi, max(12, int(2 * max(rx, ry)) // 4 * 4), endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1)


def ball(rng: Random, size: float) -> Figure:
    """The plain one: a beach ball, six sectors around an off-centre pole."""
    rx = size / 2
    ry = rx * rng.uniform(0.85, 1)
    hue = rng.uniform(0, 360)
    first, second = colour(hue, 0.85, 0.95), colour(hue, 0.1, 1)
    pole, turn = rng.uniform(-0.3, 0.3, 2) * rx, rng.uniform(0, 6)

    def paint(u: Array, v: Array) -> Array:
        sector = np.floor(np.arctan2(v - pole[1], u - pole[0]) / np.pi * 3 + turn) % 2
        shade = 1 - 0.45 * np.clip((u / rx) ** 2 + (v / ry) ** 2, 0, 1) ** 2
        return mix(first, second, sector) * shade[:, None]

    return Figure((ellipse(rx, ry),), paint)


def star(rng: Random, size: float) -> Figure:
    """A small body and many long thin spikes."""
    spikes = int(np.clip(size / rng.uniform(5, 7.5), 5, 26))
    outer = size / 2 * rng.uniform(0.85, 1, spikes)
    inner = size / 2 * rng.uniform(0.42, 0.52)
    radius = np.stack([outer, np.full(spikes, inner)], axis=1).ravel()
    hue = rng.uniform(25, 60)
    middle, edge = colour(hue, 0.25, 1), colour(hue - 20, 0.95, 0.95)

    def paint(u: Array, v: Array) -> Array:
        return mix(middle, edge, np.clip(np.hypot(u, v) / inner, 0, 1) ** 2)

    return Figure((polar(radius, np.arange(2 * spikes) * np.pi / spikes),), paint)


def ring(rng: Random, size: float) -> Figure:
    """A lifebuoy: one hole, coloured segments."""
    rx, aspect, inside = size / 2, rng.uniform(0.65, 1), rng.uniform(0.5, 0.72)
    hue = rng.choice([0, 15, 210]) + rng.uniform(-8, 8)
    first, second = colour(hue, 0.85, 0.85), colour(hue, 0.05, 0.95)
    segments, turn = int(rng.integers(3, 6)), rng.uniform(0, 2)

    def paint(u: Array, v: Array) -> Array:
        segment = np.floor(np.arctan2(v / aspect, u) / np.pi * segments + turn) % 2
        middle = np.abs(np.hypot(u, v / aspect) / rx - (1 + inside) / 2) / (1 - inside) * 2
        return mix(first, second, segment) * (1 - 0.4 * middle**2)[:, None]

    return Figure((ellipse(rx, rx * aspect),), paint, (ellipse(rx * inside, rx * aspect * inside),))


def comb(rng: Random, size: float) -> Figure:
    """A bar and a row of thin teeth, every one of its own length."""
    pitch = rng.uniform(5, 8)
    teeth = max(3, int(size / pitch))
    width, height = size, size * rng.uniform(0.5, 0.75)
    handle = height * rng.uniform(0.4, 0.5) - height / 2
    left = np.linspace(-width / 2, width / 2, teeth, endpoint=False)
    pitch = width / teeth
    x = np.stack([left, left + 0.15 * pitch, left + 0.45 * pitch, left + 0.6 * pitch], axis=1)
    tips = height / 2 - (height / 2 - handle) * rng.uniform(0, 0.25, teeth)
    y = np.stack([np.full(teeth, handle), tips, tips, np.full(teeth, handle)], axis=1)
    corners = [[x[-1, -1], -height / 2], [-width / 2, -height / 2]]
    hue = rng.uniform(20, 45)
    light, dark = colour(hue, 0.6, 0.75), colour(hue, 0.8, 0.4)
    grain, wave = rng.uniform(0.6, 0.9), rng.uniform(0.05, 0.15)

    def paint(u: Array, v: Array) -> Array:
        return mix(light, dark, 0.5 + 0.5 * np.sin(grain * v + 2 * np.sin(wave * u)))

    return Figure((np.concatenate([np.stack([x.ravel(), y.ravel()], axis=1), corners]),), paint)


def leaf(rng: Random, size: float) -> Figure:
    """Lobes with teeth on them, and a thin stalk: an outline with two scales of detail."""
    half, stalk = size / 2, max(0.8, size / 80)
    along = np.linspace(0, 1, int(np.clip(size * 0.9, 16, 150)))
    x = (1.7 * along - 0.7) * half
    lobes, teeth = max(2, int(size / rng.uniform(16, 22))), max(5, int(size / rng.uniform(5, 7)))
    profile = half * rng.uniform(0.55, 0.75) * np.clip(np.sin(np.pi * along**0.8), 0, 1) ** 0.8
    sides = []
    for side in (-1, 1):
        cut = 1 - 0.45 * ((lobes * along + 0.1 * side) % 1) - 0.35 * ((teeth * along) % 1)
        sides.append(np.stack([x, side * np.maximum(profile * cut, stalk)], axis=1))
    stem = [[-half, stalk], [-half, -stalk]]
    hue = rng.choice([rng.uniform(75, 130), rng.uniform(15, 45)], p=[0.7, 0.3])
    blade, vein = colour(hue, 0.8, 0.6), colour(hue - 15, 0.45, 0.9)
    slant, spacing = rng.uniform(0.5, 0.9), max(6.0, size / lobes / 2)

    def paint(u: Array, v: Array) -> Array:
        phase = (u - slant * np.abs(v)) / spacing % 1
        veins = np.maximum(np.abs(v) < max(0.7, size / 70), 0.6 * (phase < 0.2))
        return mix(blade, vein, veins)

    return Figure((np.concatenate([sides[0], sides[1][::-1], stem]),), paint)


def gear(rng: Random, size: float) -> Figure:
    """Teeth outside, a hub and sometimes a circle of bores inside."""
    teeth = int(np.clip(size / rng.uniform(6, 9), 6, 30))
    radius, root = size / 2, size / 2 * rng.uniform(0.72, 0.8)
    start = np.arange(teeth) * 2 * np.pi / teeth
    angle = (start[:, None] + np.array([0, 0.12, 0.42, 0.54]) * 2 * np.pi / teeth).ravel()
    outline = polar(np.tile([root, radius, radius, root], teeth), angle)
    hub = radius * rng.uniform(0.18, 0.32)
    holes = [ellipse(hub, hub)]
    if size > 50 and rng.random() < 0.7:
        bore, at = (root - hub) * rng.uniform(0.22, 0.32), (root + hub) / 2
        turns = np.arange(rng.integers(3, 7))
        holes += [ellipse(bore, bore, *xy) for xy in polar(np.full(len(turns), at), turns * 2 * np.pi / len(turns))]
    steel = colour(rng.uniform(190, 250), rng.uniform(0.15, 0.4), rng.uniform(0.45, 0.65))
    shine, turn = np.full(3, 235, np.float32), rng.uniform(0, np.pi)

    def paint(u: Array, v: Array) -> Array:
        reflex = np.cos(np.arctan2(v, u) + turn) ** 8
        return mix(steel, shine, 0.55 * reflex + 0.15 * np.sin(1.6 * np.hypot(u, v)))

    return Figure((outline,), paint, tuple(holes))


def spiral(rng: Random, size: float) -> Figure:
    """A band of constant width, wound up: at 28x28 its turns run together."""
    band = np.clip(size * rng.uniform(0.08, 0.12), 3, 9)
    pitch = band * rng.uniform(1.5, 1.75)
    end = 2 * np.pi * max(1.2, (size / 2 - band / 2) / pitch)
    angle = np.linspace(0.0, end, int(end * 3) + 8)
    middle = pitch * angle / (2 * np.pi)
    outline = np.concatenate([polar(middle + band / 2, angle), polar(middle - band / 2, angle)[::-1]])
    hue = rng.uniform(285, 340)
    first, second = colour(hue, 0.75, 0.9), colour(hue, 0.15, 1)
    stripes = int(rng.integers(4, 8))

    def paint(u: Array, v: Array) -> Array:
        slope = np.arctan2(v, u) * stripes + np.hypot(u, v) * 0.6
        return mix(first, second, np.sin(slope) > 0.3)

    return Figure((outline,), paint)


def frame(rng: Random, size: float) -> Figure:
    """A window: a border and bars, so several holes."""
    width, height = size, size * rng.uniform(0.6, 1)
    border, bar = np.clip(size * 0.11, 2.5, 12), np.clip(size * 0.05, 2, 5)
    columns, rows = (1 + int(np.clip(side / rng.uniform(28, 45), 0, 3)) for side in (width, height))
    w, h = ((side - 2 * border + bar) / n - bar for side, n in ((width, columns), (height, rows)))
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]])
    first = np.array([border - width / 2, border - height / 2])
    holes = [corners + first + [c * (w + bar), r * (h + bar)] for c in range(columns) for r in range(rows)]
    outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
    hue = rng.uniform(0, 360)
    dark, light = colour(hue, 0.7, 0.3), colour(hue, 0.5, 0.6)

    def paint(u: Array, v: Array) -> Array:
        return mix(dark, light, (np.floor(u / 5) + np.floor(v / 5)) % 2)

    return Figure((outline,), paint, tuple(holes))


def capsule(a: Array, b: Array, radius: float) -> Array:
    """The ring around a limb from `a` to `b` (2,) with round ends."""
    along = np.arctan2(b[1] - a[1], b[0] - a[0])
    turn = np.linspace(-np.pi / 2, np.pi / 2, 7) + along
    arc = radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.concatenate([b + arc, a - arc])


def to_segment(u: Array, v: Array, a: Array, b: Array) -> Array:
    """Distance (n,) of the points (u, v) from the segment a-b."""
    d = b - a
    t = np.clip(((u - a[0]) * d[0] + (v - a[1]) * d[1]) / max(d @ d, 1e-6), 0, 1)
    distance: Array = np.hypot(u - a[0] - t * d[0], v - a[1] - t * d[1])
    return distance


def person(rng: Random, size: float) -> Figure:
    """A figure that faces us (so its left is on our right), in any pose, with COCO's 17 keypoints."""

    def step(start: Array, degrees: float, length: float) -> Array:
        """From `start`, `degrees` outwards from straight down on the left (+x) side."""
        return start + length * np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])

    mirror = np.array([-1.0, 1.0])  # limbs are built on the left side and mirrored for the right
    joints: dict[str, Array] = {}
    for side in ("left", "right"):
        arm, leg = rng.uniform(5, 150), rng.uniform(0, 40)
        shoulder, hip = np.array([0.11, -0.27]), np.array([0.07, 0.04])
        elbow = step(shoulder, arm, 0.17)
        wrist = step(elbow, arm + rng.uniform(-70, 70), 0.16)
        knee = step(hip, leg, 0.22)
        ankle = step(knee, leg - rng.uniform(0, 40), 0.21)
        points = {"shoulder": shoulder, "elbow": elbow, "wrist": wrist, "hip": hip, "knee": knee, "ankle": ankle}
        points |= {"eye": np.array([0.032, -0.43]), "ear": np.array([0.078, -0.41])}
        joints |= {f"{side}_{k}": size * (p if side == "left" else p * mirror) for k, p in points.items()}
    joints["nose"] = size * np.array([rng.uniform(-0.015, 0.015), -0.395])
    head, neck = size * np.array([0, -0.41]), size * np.array([0, -0.28])

    skin = colour(rng.uniform(12, 32), rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.95))
    hair, shirt, trousers = (
        colour(rng.uniform(0, 360), s, v) for s, v in ((0.5, 0.2), (rng.uniform(0.5, 0.9), 0.85), (0.6, 0.45))
    )
    chest, waist = size * 0.07, size * 0.085
    limbs: list[tuple[Array, Array, float, Array]] = []  # painted in this order, the later ones over the earlier
    for side in ("left", "right"):
        hip, knee, ankle = (joints[f"{side}_{j}"] for j in ("hip", "knee", "ankle"))
        foot = ankle + size * np.array([0.05 if side == "left" else -0.05, 0.01])
        limbs += [(ankle, foot, 0.026 * size, hair), (knee, ankle, 0.036 * size, trousers)]
        limbs += [(hip, knee, 0.046 * size, trousers)]
    limbs += [(neck + [0, chest], size * np.array([0, 0.0]), waist, shirt), (head, neck, 0.035 * size, skin)]
    limbs += [(joints["left_shoulder"], joints["right_shoulder"], 0.045 * size, shirt)]
    for side in ("left", "right"):
        shoulder, elbow, wrist = (joints[f"{side}_{j}"] for j in ("shoulder", "elbow", "wrist"))
        limbs += [(elbow, wrist, 0.028 * size, skin), (shoulder, elbow, 0.035 * size, shirt)]
    limbs += [(head, head + [0, 0.001], 0.085 * size, skin)]
    stripe = 2 * np.pi / max(4.0, 0.07 * size)
    striped = rng.random() < 0.5

    def paint(u: Array, v: Array) -> Array:
        rgb = np.tile(trousers, (len(u), 1))
        for a, b, radius, tone in limbs:
            inside = to_segment(u, v, a, b) <= radius + 0.5
            rgb[inside] = tone
            if tone is shirt and striped:
                rgb[inside & (np.sin(stripe * v) > 0.2)] = 240
        rgb[(v < head[1] - 0.03 * size) & (np.hypot(u, v - head[1]) < 0.1 * size)] = hair
        for eye in ("left_eye", "right_eye"):
            rgb[np.hypot(u - joints[eye][0], v - joints[eye][1]) < 0.014 * size] = 30
        return rgb

    parts = tuple(capsule(a, b, radius) for a, b, radius, _ in limbs)
    return Figure(parts, paint, keypoints=np.stack([joints[k] for k in KEYPOINTS]))


@dataclass(frozen=True)
class Category:
    id: int
    name: str
    draw: Callable[[Random, float], Figure]
    tilt: float  # the most degrees that a figure is turned


# the ids have gaps, as COCO's have, so that nobody takes them for labels
CATEGORIES = (
    Category(1, "person", person, 25),
    Category(3, "ball", ball, 180),
    Category(7, "star", star, 180),
    Category(12, "ring", ring, 180),
    Category(18, "comb", comb, 180),
    Category(25, "leaf", leaf, 180),
    Category(31, "gear", gear, 180),
    Category(44, "spiral", spiral, 180),
    Category(57, "frame", frame, 180),
)
