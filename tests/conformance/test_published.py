"""The published models, where they are."""

from __future__ import annotations

import pytest

from . import published

pytestmark = [pytest.mark.shared, pytest.mark.slow]


def test_all_are_there() -> None:
    assert len(published.names()) >= published.COUNT
    assert set(published.FLOORS) <= set(published.names())


@pytest.mark.parametrize("name", published.names())
def test_published_model(name: str) -> None:
    published.run(name)
