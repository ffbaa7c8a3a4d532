"""Test data that is not part of the repository: published models, in the folder named by ONNXSHRINK_SHARED.

Without the variable, a folder `shared` beside the checkout is taken. Tests that need it carry the marker `shared` and
are skipped where it is absent; a test with an argument `published` runs once for each model.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ABSENT = "no published models: set ONNXSHRINK_SHARED to a folder that has them under onnx/"


def shared_folder() -> Path | None:
    """The folder with test data, or None."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared"
    folder = Path(os.environ.get("ONNXSHRINK_SHARED", beside))
    return folder if (folder / "onnx").is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shared_folder() is None:
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=ABSENT))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "published" in metafunc.fixturenames:
        folder = shared_folder()
        models = sorted((folder / "onnx").glob("*.onnx")) if folder else []
        absent = pytest.param(None, marks=pytest.mark.skip(reason=ABSENT))
        metafunc.parametrize("published", models or [absent], ids=lambda path: path.stem if path else "absent")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with test data."""
    folder = shared_folder()
    if folder is None:
        pytest.skip(ABSENT)
    return folder
