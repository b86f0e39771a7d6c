"""A judge behind an OpenAI-compatible chat endpoint over HTTP."""

import http.client
import ipaddress
import json
import os
import random
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

from common.net.retry import Transient, asks_for_patience, retry_after
from common.qa.judges import Chat, JudgeError, Reply
from common.qa.prompts import Message

REFUSAL_CODES = {400, 413, 422}  # of one chat: too long, or against a content rule
SHOWN = 300  # characters of a server's message


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST loses its body and would carry the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Endpoint:
    """Asks `<base_url>/chat/completions`, several chats at a time.

    Too many requests, server errors, time-outs and broken connections are tried again after 1, 2, 4, ... seconds, or
    after what Retry-After says. The key comes from the environment alone and is taken out of all that the server says.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        key_variable: str = "OPENAI_API_KEY",
        temperature: float | None = 0.0,
        max_tokens: int = 256,
        limit_field: str = "max_tokens",
        parallel: int = 8,
        timeout: float = 60.0,
        retries: int = 6,
        first_wait: float = 1.0,
        longest_wait: float = 120.0,
        plain_http: bool = False,
    ) -> None:
        """
        Args:
            base_url: such as https://host/v1, without a user, a password or a query.
            model: as the server names it.
            key_variable: name of the environment variable that holds the key.
            temperature: null leaves it out, for models that take none.
            max_tokens: longest reply; models that think first need more.
            limit_field: name under which the server takes it (newer models: max_completion_tokens).
            parallel: requests at a time.
            timeout: seconds that the server may be silent.
            retries: tries after the first.
            first_wait: seconds before the second try; doubles each time.
            longest_wait: most seconds between tries; a server that asks for more ends the evaluation.
            plain_http: whether the key may go to another machine unencrypted, as inside a cluster.

        Raises:
            JudgeError: a value is out of range, or there is no key and the host is not this machine.
        """
        if parallel < 1 or retries < 0 or not 0 < first_wait <= longest_wait or timeout <= 0:
            raise JudgeError("judge: parallel >= 1, retries >= 0, timeout > 0 and 0 < first_wait <= longest_wait")
        self.base_url, self.model = base_url.rstrip("/"), model
        self.parallel, self.timeout, self.retries = parallel, timeout, retries
        self.first_wait, self.longest_wait = first_wait, longest_wait
        self._settings = {"temperature": temperature, limit_field: max_tokens}
        if temperature is None:
            del self._settings["temperature"]
        local = _is_local(self.base_url)
        self._key = _key(key_variable, base_url=self.base_url, local=local, plain_http=plain_http)
        proxies = [urllib.request.ProxyHandler({})] if local else []  # a proxy cannot reach this machine's loopback
        self._opener = urllib.request.build_opener(_NoRedirect, *proxies)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": "endpoint", "base_url": self.base_url, "model": self.model, **self._settings}

    def ask(self, chats: Sequence[Chat]) -> Generator[tuple[int, Reply], None, None]:
        stop = threading.Event()
        failure: BaseException | None = None
        with ThreadPoolExecutor(self.parallel) as pool:
            futures = {pool.submit(self._ask, chat.messages, stop): place for place, chat in enumerate(chats)}
            try:
                for future in as_completed(futures):
                    if future.cancelled():
                        continue
                    error = future.exception()
                    if error is None:  # also after a failure: what was paid for is kept
                        yield futures[future], future.result()
                        continue
                    failure = failure or error
                    stop.set()
                    for each in futures:
                        each.cancel()
            finally:
                stop.set()
                for each in futures:
                    each.cancel()
        if failure is not None:
            raise failure

    def _ask(self, messages: list[Message], stop: threading.Event) -> Reply:
        wait = self.first_wait
        for tries in range(1, self.retries + 2):
            try:
                return self._post(messages)
            except Transient as error:
                problem = f"{self.base_url}: {error}"
                if tries > self.retries:
                    raise JudgeError(
                        f"{problem}, {tries} times; the replies so far are kept: run again later"
                    ) from None
                asked = error.wait
                if asked is not None and asked > self.longest_wait:
                    raise JudgeError(
                        f"{problem}; asks to wait {asked:.0f} s, more than judge.longest_wait; run again later"
                    ) from None
                # Without an order of the server, requests that failed together should not come back together.
                if stop.wait(wait * random.uniform(0.5, 1.0) if asked is None else asked):
                    raise JudgeError(f"{problem}; given up because another request failed") from None
                wait = min(2 * wait, self.longest_wait)
        raise AssertionError("the last try returns or raises")

    def _post(self, messages: list[Message]) -> Reply:
        body = {"model": self.model, "messages": messages, **self._settings}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            f"{self.base_url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            return self._refused(error)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise Transient(self._hide(f"no answer ({error})")) from None
        return self._reply(content)

    def _refused(self, error: urllib.error.HTTPError) -> Reply:
        with error:
            try:
                said = self._hide(error.read().decode(errors="replace"))[:SHOWN].strip()
            except (http.client.HTTPException, OSError):  # the status says enough
                said = ""
        problem = f"HTTP {error.code} {said}"
        if asks_for_patience(error.code):
            raise Transient(problem, retry_after(error.headers))
        if error.code in REFUSAL_CODES:
            return Reply(None, None, problem)
        if 300 <= error.code < 400:
            raise JudgeError(f"{self.base_url} sends requests elsewhere; give that address as judge.base_url") from None
        raise JudgeError(f"{self.base_url}: {problem}; check judge.base_url, judge.model and the key") from None

    def _reply(self, content: bytes) -> Reply:
        try:
            answer = json.loads(content)
            text = answer["choices"][0]["message"].get("content") or ""
            model = answer.get("model")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            said = self._hide(content.decode(errors="replace"))[:SHOWN]
            raise Transient(f"an answer that is no chat completion: {said}") from None
        return Reply(self._hide(str(text)), None if model is None else self._hide(str(model)))

    def _hide(self, said: str) -> str:
        return said.replace(self._key, "***") if self._key else said


def _key(variable: str, *, base_url: str, local: bool, plain_http: bool) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", variable):
        raise JudgeError("judge.key_variable is the name of an environment variable, not the key itself")
    key = os.environ.get(variable, "").strip()
    if not key and not local:
        raise JudgeError(f"{base_url} needs a key: set the environment variable {variable}")
    if not (key.isascii() and key.isprintable()):
        raise JudgeError(f"the environment variable {variable} holds signs that no key has")
    if key and not local and not plain_http and urlsplit(base_url).scheme == "http":
        raise JudgeError(f"{base_url} would get the key unencrypted; use https, or set judge.plain_http=true")
    return key


def _is_local(base_url: str) -> bool:
    """Whether the address is this machine's loopback; refuses one that is no plain http(s) address."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise JudgeError("judge.base_url should read like https://host/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise JudgeError("judge.base_url holds a user, a password or a query; the key comes from the environment")
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return parts.hostname == "localhost"
