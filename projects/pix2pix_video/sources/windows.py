"""Which frames of a clip make a row: a history, and the frame some way after it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

Anchor: TypeAlias = Literal["start", "end"]


class Window(NamedTuple):
    """Numbers of frames in their clip: the history, oldest first, and the target."""

    history: tuple[int, ...]
    target: int


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of a clip.

    Attributes:
        history: frames of the history.
        gap: frames from the last of the history to the target; 1 is the next one.
        stride: frames from one of the history to the next; 1 takes every frame.
        step: frames from the target of one window to the target of the next; None for one window a clip.
        anchor: "end": the last window's target is the last frame of the clip, others lie before it; "start": the first
            window begins with the first frame, others follow.
    """

    history: int = 20
    gap: int = 1
    stride: int = 1
    step: int | None = None
    anchor: Anchor = "end"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"task.{name}={value} must be 1 or more")
        if self.anchor not in get_args(Anchor):
            raise ValueError(f"task.anchor={self.anchor!r} is not one of {', '.join(get_args(Anchor))}")

    @property
    def span(self) -> int:
        """Frames from the first of the history to the target, both counted."""
        return (self.history - 1) * self.stride + self.gap + 1

    def of(self, num_frames: int) -> list[Window]:
        """The windows that lie wholly in a clip, in the order of time; none where it is shorter than one."""
        last = num_frames - self.span
        if last < 0:
            return []
        step = self.step or num_frames
        starts = range(0, last + 1, step) if self.anchor == "start" else range(last, -1, -step)
        return [self._at(start) for start in sorted(starts)]

    def _at(self, start: int) -> Window:
        end = start + self.span - 1
        return Window(tuple(range(start, end - self.gap + 1, self.stride)), end)

    def settings(self) -> dict[str, Any]:
        """The attributes, as JSON."""
        return asdict(self)
