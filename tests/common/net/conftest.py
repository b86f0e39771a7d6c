"""A server for each test."""

from collections.abc import Iterator

import pytest

from tests.common.net.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
