"""One row of a set of edits."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EditRow:
    """A history of frames, an instruction, and the frame that follows from both.

    Attributes:
        id: name of the row, different from that of every other row of the set.
        history: files of the T frames, oldest first, relative to the folder of the media.
        target: file of the frame to predict, relative likewise; "" where only the set itself holds it.
        instruction: what is asked for.
        task: kind of instruction, "" where the source names none.
        pair: the same for rows that share their history, "" where none does.
        novel: whether the row shows what training never shows.
    """

    id: str
    history: tuple[str, ...]
    target: str
    instruction: str
    task: str = ""
    pair: str = ""
    novel: bool = False
