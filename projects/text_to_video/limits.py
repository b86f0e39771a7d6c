"""Which clips are taken, decided by what a table says of them; no video is opened."""

import math
from collections.abc import Sequence

from projects.text_to_video.clips import Clip

Range = Sequence[float | None]  # lowest and highest value that are taken, null for none


class Limits:
    """Ranges of the numbers that are known of a clip, ends included."""

    def __init__(
        self,
        *,
        seconds: Range = (None, None),
        fps: Range = (None, None),
        frames: Range = (None, None),
        side: Range = (None, None),
        aesthetic: Range = (None, None),
        motion: Range = (None, None),
        consistency: Range = (None, None),
        camera: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            seconds: length. 64 frames at 16 a second need 4.
            fps: frames a second.
            frames: number of frames.
            side: pixels that the shorter side has at least.
            aesthetic: aesthetic score.
            motion: motion score.
            consistency: temporal consistency score.
            camera: motions of the camera that are taken; None takes all.

        Raises:
            ValueError: a range is not two numbers or nulls in order.
        """
        ranges = {
            "seconds": seconds,
            "fps": fps,
            "frames": frames,
            "side": side,
            "aesthetic": aesthetic,
            "motion": motion,
            "consistency": consistency,
        }
        self.ranges = {name: _ends(name, given) for name, given in ranges.items() if any(x is not None for x in given)}
        self.camera = None if camera is None else sorted(set(camera))

    def settings(self) -> dict[str, list[float | None] | list[str]]:
        """The limits that are set, as JSON."""
        known: dict[str, list[float | None] | list[str]] = {name: [*ends] for name, ends in self.ranges.items()}
        return known if self.camera is None else {**known, "camera": self.camera}

    def broken_by(self, clip: Clip) -> str | None:
        """The first limit that a clip does not keep; None where it is taken.

        Raises:
            ValueError: a limit asks for a number that is not known of the clip.
        """
        for name, (low, high) in self.ranges.items():
            value = getattr(clip, name)
            if value is None:
                raise ValueError(
                    f"task.limits.{name} is set, but the {name} of {clip.id} is not known; add it to the table, "
                    f"let the files be probed (task.probe=true), or set the limit to [null, null]"
                )
            if (low is not None and value < low) or (high is not None and value > high):
                return name
        return "camera" if self.camera is not None and clip.camera not in self.camera else None


def _ends(name: str, given: Range) -> tuple[float | None, float | None]:
    ends = [None if end is None else float(end) for end in given]
    ordered = len(ends) == 2 and (None in ends or ends[0] <= ends[1])  # type: ignore[operator]
    if not ordered or any(end is not None and math.isnan(end) for end in ends):
        raise ValueError(f"task.limits.{name}={list(given)}: give the lowest and the highest value, null for none")
    return ends[0], ends[1]
