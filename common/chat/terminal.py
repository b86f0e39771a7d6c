"""A talk about videos in the terminal."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from common.data.conversations import DataError, Turn
from common.video.decode import VideoReadError

HELP = "/video FILE: look at another video   /clear: forget what was said   /quit, Ctrl-D: end"


def converse(reply: Callable[[str, Sequence[Turn]], str], *, video: str | None, console: Console) -> list[Turn]:
    """Reads questions and prints answers until the input ends; each answer knows what was said before.

    Args:
        reply: the answer to the last of the turns about a video.
        video: file to begin with; without one, the first line must be `/video FILE`.
        console: where to talk.

    Returns:
        The turns since the last video or `/clear`.
    """
    console.print(HELP)
    turns: list[Turn] = []
    while True:
        try:
            line = console.input(f"[dim]{escape(video or 'no video')}[/dim] > ").strip()
        except EOFError:
            return turns
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return turns
        if command == "/clear":
            turns = []
        elif command == "/video" and rest.strip():
            video, turns = rest.strip(), []
        elif command.startswith("/"):
            console.print(HELP)
        elif video is None:
            console.print("no video yet: /video FILE")
        elif line:
            try:
                said = reply(video, [*turns, Turn(line, None)])
            except (VideoReadError, DataError) as error:
                console.print(escape(str(error)), style="red")
                continue
            turns.append(Turn(line, said))
            console.print(escape(said))
