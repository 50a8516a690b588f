"Where reference data lies, and which tests run on demand only."
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config, items):
    import torch
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: run with --slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared() -> Path:
    "Folder of reference data that is not part of the project; tests that ask for it skip where it is absent."
    folder = Path(os.environ.get("YNP_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no reference data in {folder} (set YNP_SHARED to its folder)")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    "Numbers of the reference, part of the project."
    return ROOT / "tests" / "data" / "golden"
