"""What a server says about coming back later."""

from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime

WAIT_CODES = frozenset({408, 409, 425, 429})  # and every 5xx: the server asks for patience


class Transient(Exception):
    """A failure that may pass, and how many seconds the server asks to wait."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


def asks_for_patience(status: int) -> bool:
    """Whether a request that was answered so may be sent again."""
    return status in WAIT_CODES or status >= 500


def retry_after(headers: Message) -> float | None:
    """Seconds of a Retry-After header, which gives a number or a date; None where it is absent or unreadable."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
