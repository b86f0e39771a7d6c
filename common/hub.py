"""Putting a finished folder on the Hugging Face Hub: patient, resumable, and never deleting anything there.

The transfer is huggingface_hub's. What is ours is the patience where the library has none: creating the repository
and committing are single requests there, and a conflict or a rate limit would end the run after an hour of upload.
The token comes from HF_TOKEN or `hf auth login` alone.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but imported lazily there
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
    validate_repo_id,
)

from common.made import RECORD
from common.net.retry import retry_after

T = TypeVar("T")
log = logging.getLogger(__name__)

CONFLICTS = (409, 412)  # another operation on the repository was in progress, or came between
BUSY = (408, 429, 500, 502, 503, 504)
# Paths of requests that the library sends once; it repeats the others by itself on BUSY.
SINGLE = ("/api/repos/create", "/api/validate-yaml", "/commit/")
LOGIN = "run `hf auth login`, or set HF_TOKEN, with a token that may write"
AGAIN = "nothing was deleted; run the command again with the same export.target: what has arrived is not sent again"


class HubError(ValueError):
    """The Hub refused, or could not be reached: names what to do."""


@dataclass(frozen=True)
class Patience:
    """How often a request is repeated, and how long each wait is, in seconds."""

    tries: int = 6
    first_wait: float = 2.0  # doubled at each further try, unless the Hub says how long
    longest_wait: float = 900.0  # an answer that asks for more ends the run with a message


def files_to_push(folder: Path) -> list[tuple[str, int]]:
    """Names, relative to the folder, and bytes of what is sent; the record of the making stays here."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths if path != folder / RECORD]


def check_repository(repo: str) -> None:
    """Raises HubError unless a name is <user or organisation>/<name> in the letters that the Hub takes."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise HubError(f"export.push={repo}: {error}") from error
    if repo.count("/") != 1:
        raise HubError(f"export.push={repo}: give <user or organisation>/<name>")


def check_token() -> None:
    """Raises HubError when there is no token at all; whether it is good, only the Hub can say."""
    if get_token() is None:
        raise HubError(f"no Hugging Face token; {LOGIN}")


def push(
    folder: Path,
    *,
    repo: str,
    private: bool,
    message: str,
    endpoint: str | None = None,
    patience: Patience | None = None,
) -> str:
    """Uploads a folder as a model repository, which is made if it is not there.

    Args:
        folder: finished, see `files_to_push`. Files of the repository that are not in it stay.
        repo: <user or organisation>/<name>.
        private: whether the repository must be private.
        message: of the commit.
        endpoint: address of the Hub; the default is huggingface_hub's (HF_ENDPOINT).
        patience: of the repetitions.

    Returns:
        Address of the commit.

    Raises:
        HubError: the Hub refuses, or stays busy; or the repository is public and `private` is true.
    """
    check_repository(repo)
    check_token()
    api, patience = HfApi(endpoint=endpoint), patience or Patience()
    patiently(lambda: api.create_repo(repo, private=private, exist_ok=True), repo=repo, patience=patience)
    is_private = bool(patiently(lambda: api.repo_info(repo), repo=repo, patience=patience).private)
    if private and not is_private:
        raise HubError(f"{repo} is public; say export.private=false, choose another name, or make it private first")
    if is_private and not private:
        log.warning("%s is private and stays so; its settings page on the Hub can make it public", repo)
    commit = patiently(
        lambda: api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, ignore_patterns=[RECORD]),
        repo=repo,
        patience=patience,
    )
    return str(commit.commit_url)


def patiently(action: Callable[[], T], *, repo: str, patience: Patience) -> T:
    """Runs an action of the library, again after a wait where the Hub is busy or reports a conflict.

    Raises:
        HubError: it was refused, or all tries are used up, or the Hub asks for more time than `patience` has.
    """
    for attempt in range(1, patience.tries + 1):
        try:
            with _raised_at_once():
                return action()
        except (OSError, httpx2.TransportError, RuntimeError, ValueError) as error:  # OSError: HfHubHTTPError, hf_xet's
            cause = _http_cause(error)
            wait = _asked_wait(cause) if cause else None
            wait = patience.first_wait * 2 ** (attempt - 1) if wait is None else wait
            if attempt == patience.tries or not _may_pass(cause or error) or wait > patience.longest_wait:
                raise HubError(_explain(cause, error, repo=repo, attempt=attempt, wait=wait)) from error
            reason = cause.response.status_code if cause else error
            log.warning("%s: %s; again in %.0f s (try %d of %d)", repo, reason, wait, attempt + 1, patience.tries)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


@contextmanager
def _raised_at_once() -> Iterator[None]:
    """Two answers are raised here that the library does not judge by their status.

    It repeats a conflicting creation without pause and without end, and it reads the answer about the metadata as
    JSON even where a busy server sent none.
    """

    def judge(response: httpx2.Response) -> None:
        path, status = response.url.path, response.status_code
        if (path == "/api/validate-yaml" and status >= 401) or (path == "/api/repos/create" and status == 409):
            response.read()
            if status != 409 or "another conflicting operation" in response.text:
                hf_raise_for_status(response)

    hooks = get_session().event_hooks["response"]
    hooks.append(judge)
    try:
        yield
    finally:
        hooks.remove(judge)


def _http_cause(error: BaseException) -> HfHubHTTPError | None:
    """The answer of the Hub behind an error; the library wraps that of an uploading thread."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    return cause


def _may_pass(error: BaseException) -> bool:
    if not isinstance(error, HfHubHTTPError):
        return isinstance(error, httpx2.TransportError)
    status, path = error.response.status_code, error.response.url.path
    return status in CONFLICTS or (status in BUSY and any(part in path for part in SINGLE))


def _asked_wait(error: HfHubHTTPError) -> float | None:
    """Seconds that the Hub asks to wait, if it says so."""
    limit = parse_ratelimit_headers(error.response.headers)
    if error.response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    headers = Message()
    if "Retry-After" in error.response.headers:
        headers["Retry-After"] = error.response.headers["Retry-After"]
    return retry_after(headers)


def _explain(cause: HfHubHTTPError | None, error: Exception, *, repo: str, attempt: int, wait: float) -> str:
    if cause is None:
        return f"{repo}: {error}; {AGAIN}"
    status, says = cause.response.status_code, cause.server_message or str(cause).strip().splitlines()[0]
    tried = f"after {attempt} {'try' if attempt == 1 else 'tries'}"
    if status == 401:
        return f"the Hub does not accept the token (401: {says}); {LOGIN}"
    if status == 403:
        return f"the token may not write to {repo} (403: {says}); {LOGIN} to it"
    if status in CONFLICTS:
        return f"{repo} is being changed by something else ({status}: {says}), still {tried}; {AGAIN}"
    if status in BUSY:
        return f"the Hub is busy ({status}: {says}), still {tried}, and asks for {wait:.0f} s; {AGAIN}"
    return f"{repo}: the Hub answered {status} ({says}); {AGAIN}"
