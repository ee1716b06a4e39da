"""The figure that wears the clothes: proportions, pose, and where its joints are seen.

Units are head heights; the figure stands on y = 7.6 with the top of its head at y = 0. Body
coordinates are (across, down, forward): across grows towards the wearer's LEFT, which is the
right side of the picture when the figure faces the camera.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

Point = tuple[float, float]

NECK_TOP = 1.36
SHOULDER = 1.56
WAIST = 2.85
HIP = 3.65
CROTCH = 4.05
KNEE = 5.65
ANKLE = 7.3
ARM_JOINT = (0.65, 1.74)
LEG_JOINT = (0.4, 3.75)
UPPER_ARM, FOREARM = 1.25, 1.1
DEPTH = 0.64  # how deep the trunk is, as a share of its width

Direction = tuple[float, float, float]  # across (outwards), down, forward; unit length


@dataclasses.dataclass(frozen=True)
class Arm:
    """Directions of upper arm and forearm; `across` counts outwards from the body."""

    upper: Direction
    fore: Direction


@dataclasses.dataclass(frozen=True)
class Figure:
    """A pose: yaw (radians; positive turns the wearer's left side to the camera), lean
    (radians, of the trunk), arms and forward steps of the knees and ankles (left, right)."""

    yaw: float
    lean: float
    arms: tuple[Arm, Arm]
    knees: tuple[float, float]
    ankles: tuple[float, float]
    stance: float

    def place(self, across: float, down: float, forward: float = 0.0) -> Point:
        """Returns where a body point is seen (head heights)."""
        x = across * math.cos(self.yaw) - forward * math.sin(self.yaw)
        if down >= HIP:
            return x, down
        up = HIP - down
        return (
            x * math.cos(self.lean) + up * math.sin(self.lean),
            HIP - up * math.cos(self.lean) + x * math.sin(self.lean),
        )

    def nearness(self, across: float, forward: float) -> float:
        """Returns how far towards the camera a body point is (head heights)."""
        return across * math.sin(self.yaw) + forward * math.cos(self.yaw)

    def arm(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the body coordinates of shoulder joint, elbow and wrist; side 0 left, 1 right."""
        sign = 1.0 if side == 0 else -1.0
        outwards = np.array([sign, 1.0, 1.0])
        shoulder = np.array([ARM_JOINT[0] * sign, ARM_JOINT[1], 0.0])
        elbow = shoulder + UPPER_ARM * np.array(self.arms[side].upper) * outwards
        wrist = elbow + FOREARM * np.array(self.arms[side].fore) * outwards
        return shoulder, elbow, wrist

    def leg(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the body coordinates of hip joint, knee and ankle; side 0 left, 1 right."""
        sign = 1.0 if side == 0 else -1.0
        hip = np.array([LEG_JOINT[0] * sign, LEG_JOINT[1], 0.0])
        knee = np.array([(LEG_JOINT[0] + self.stance * 0.5) * sign, KNEE, self.knees[side]])
        ankle = np.array([(LEG_JOINT[0] + self.stance) * sign, ANKLE, self.ankles[side]])
        return hip, knee, ankle

    def seen(self, point: np.ndarray) -> Point:
        """Returns `place` for a body point given as an array."""
        return self.place(float(point[0]), float(point[1]), float(point[2]))


def direction(out: float, forward: float, down: float = 1.0) -> Direction:
    """Returns a unit vector from its parts."""
    norm = math.sqrt(out * out + forward * forward + down * down)
    return out / norm, down / norm, forward / norm


def narrowing(yaw: float, depth: float) -> float:
    """Returns the width of an elliptical trunk seen from `yaw`, by its width from the front."""
    return math.hypot(math.cos(yaw), depth * math.sin(yaw))


def cloth_turn(yaw: float, depth: float) -> float:
    """Returns how far an elliptical trunk's cloth turns when the body turns by `yaw`."""
    return math.atan2(depth * math.sin(yaw), math.cos(yaw))


def laid_out(arm_angle: float = 0.24, lean: float = 0.0) -> Figure:
    """Returns the straight pose of shop photos: arms a little out, legs slightly apart."""
    arm = Arm(direction(math.tan(arm_angle), 0.0), direction(math.tan(arm_angle) * 0.8, 0.0))
    return Figure(0.0, lean, (arm, arm), (0.0, 0.0), (0.0, 0.0), 0.06)


_REST = Arm(direction(0.16, 0.02), direction(0.05, 0.22))
_WIDE = Arm(direction(0.5, 0.05), direction(0.3, 0.3))
_HIP = Arm(direction(0.8, -0.15), direction(-0.85, 0.35, 0.55))
_POCKET = Arm(direction(0.35, -0.15), direction(-0.3, 0.25))
_PHONE = Arm(direction(0.25, 0.45), direction(-0.55, 0.5, -0.75))
_BELLY = Arm(direction(0.25, 0.1), direction(-0.85, 0.5, 0.25))
_RAISED = Arm(direction(0.9, 0.1, -0.35), direction(-0.1, 0.1, -1.0))
_WALK = Arm(direction(0.12, 0.35), direction(0.0, 0.6))
_BACKWARD = Arm(direction(0.12, -0.35), direction(0.0, -0.1))
ARM_POSES: dict[str, tuple[Arm, float]] = {
    "rest": (_REST, 0.34),
    "wide": (_WIDE, 0.14),
    "hip": (_HIP, 0.13),
    "pocket": (_POCKET, 0.12),
    "phone": (_PHONE, 0.07),
    "belly": (_BELLY, 0.05),
    "raised": (_RAISED, 0.04),
    "walk": (_WALK, 0.06),
    "backward": (_BACKWARD, 0.05),
}


def _random_arm(rng: np.random.Generator, calm: bool) -> Arm:
    names = list(ARM_POSES)
    weights = np.array([weight for _, weight in ARM_POSES.values()])
    if calm:
        weights = weights * [name not in ("phone", "belly") for name in names]
    arm = ARM_POSES[names[int(rng.choice(len(names), p=weights / weights.sum()))]][0]
    shift = rng.uniform(-0.1, 0.1, 6)
    upper, fore = arm.upper, arm.fore
    return Arm(
        direction(upper[0] + shift[0], upper[2] + shift[1], upper[1] + shift[2] * 0.3),
        direction(fore[0] + shift[3], fore[2] + shift[4], fore[1] + shift[5] * 0.3),
    )


def random_figure(rng: np.random.Generator, yaw: float, calm: bool) -> Figure:
    """Returns a casual pose at a yaw (radians); `calm` keeps the hands off the trunk."""
    step = float(rng.uniform(-0.35, 0.35))
    return Figure(
        yaw=yaw,
        lean=float(rng.normal(0, 0.05)),
        arms=(_random_arm(rng, calm), _random_arm(rng, calm)),
        knees=(step, -step),
        ankles=(step * 0.6, -step * 1.3),
        stance=float(rng.uniform(-0.1, 0.2)),
    )
