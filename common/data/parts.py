"""Messages whose content is a list of parts, {type: text | image | video}, as texts with a marker for the video."""

from dataclasses import dataclass, field
from typing import Any

from common.data.fields import DataError, Row, Video, text, video
from common.text.prompt import VIDEO

# Names under which a part of each type may carry its file.
SOURCES = {"video": ("video", "path", "url"), "image": ("image", "path", "url")}
WRAPPED = {"video_url": "video", "image_url": "image"}  # OpenAI: {type: image_url, image_url: {url: ...}}


@dataclass
class Media:
    """What the parts of a conversation show.

    Attributes:
        videos: those that parts name. Images that stand together and name their files are the frames of one video.
        unnamed: images without a file: each is a frame of the video that the row names.
    """

    videos: list[Video] = field(default_factory=list)
    unnamed: int = 0


def join_parts(messages: object, where: str) -> tuple[object, Media]:
    """The messages with text for content, and what their parts show.

    Args:
        messages: as in the file; what is not a list of objects with a list of parts is left as it is.
        where: file and row.

    Raises:
        DataError: a part is of another type, or images do not stand together.
    """
    if not isinstance(messages, list):
        return messages, Media()
    reader = _Reader(where)
    joined = [reader.message(message) for message in messages]
    return joined, reader.media()


class _Reader:
    """Goes through the parts of a conversation, one message after the other."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.videos: list[Video] = []
        self.runs = 0  # of images that stand together
        self.frames: list[str] = []
        self.unnamed = 0

    def message(self, message: Any) -> Any:
        parts = message.get("content") if isinstance(message, dict) else None
        if not isinstance(parts, list):
            return message
        texts: list[str] = []
        last = None
        for part in parts:
            kind = self._kind(part)
            if kind == "text":
                texts.append(text(part, "text", self.where))
            elif kind == "video":
                texts.append(VIDEO)
                self._add_video(part)
            else:
                if last != "image":
                    self.runs += 1
                    texts.append(VIDEO)
                self._add_image(part)
            last = kind
        return {**message, "content": "\n".join(texts)}

    def media(self) -> Media:
        if self.runs > 1:
            problem = f"images stand in {self.runs} places; the frames of a video stand together, without text between"
            raise DataError(self.where, "content", problem)
        if self.frames and self.unnamed:
            raise DataError(self.where, "content", "some images name a file, others do not; name all or none")
        frames: list[Video] = [self.frames[0] if len(self.frames) == 1 else tuple(self.frames)] if self.frames else []
        return Media([*self.videos, *frames], self.unnamed)

    def _kind(self, part: Any) -> str:
        kind = part.get("type") if isinstance(part, dict) else None
        kind = WRAPPED.get(kind, kind) if isinstance(kind, str) else kind
        if kind not in ("text", "image", "video"):
            raise DataError(self.where, "content", f"holds a part of type {kind!r}; text, image and video are read")
        return str(kind)

    def _add_video(self, part: Row) -> None:
        """A part without a file stands for the video that the row names."""
        source = _source(part, "video")
        if source is not None:
            self.videos.append(video(source, "content", self.where))

    def _add_image(self, part: Row) -> None:
        source = _source(part, "image")
        if source is None:
            self.unnamed += 1
            return
        frame = video(source, "content", self.where)
        if not isinstance(frame, str):
            raise DataError(self.where, "content", "an image part names several files; write a part for each")
        self.frames.append(frame)


def _source(part: Row, kind: str) -> object:
    wrapped = part.get(f"{kind}_url")
    if wrapped is not None:
        return wrapped.get("url") if isinstance(wrapped, dict) else wrapped
    return next((part[name] for name in SOURCES[kind] if part.get(name) is not None), None)
