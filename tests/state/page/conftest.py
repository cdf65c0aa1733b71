"""One headless Chromium for all tests that look at a page as a reader does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.state.page.browsing import Browser, program


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = program()
    assert found is not None
    window = Browser(found, tmp_path_factory.mktemp("profile"))
    yield window
    window.close()


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """A browser in which nothing may go wrong: no exception, no dialog, no request, nothing refused by the policy."""
    window.prefer("light")
    window.resize(1500, 950)
    yield window
    window.js("1")
    assert window.told == []


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the screenshots go, for a person to look at."""
    return tmp_path_factory.mktemp("pictures")
