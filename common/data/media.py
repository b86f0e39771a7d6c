"""Where the media that an annotation names lie on disk."""

from pathlib import Path

EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".ts", ".gif")


def resolve(media: Path, name: str, *, where: str) -> Path:
    """The file, or folder of frames, behind a name.

    Args:
        media: folder that names are relative to.
        name: relative or absolute path; the extension may be missing, as in sets that name clips by id.
        where: the row, for the message.

    Raises:
        FileNotFoundError: nothing there; says where it was looked for.
    """
    path = media / name
    if path.exists():
        return path
    found = [candidate for extension in EXTENSIONS if (candidate := path.with_name(path.name + extension)).exists()]
    if len(found) == 1:
        return found[0]
    if found:
        raise FileNotFoundError(f"{where}: {name} is ambiguous: {', '.join(str(each) for each in found)}")
    raise FileNotFoundError(f"{where}: no {name} below {media} (also tried {', '.join(EXTENSIONS)})")
