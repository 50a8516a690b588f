"The memory of a loader and its workers does not grow with the epochs."
import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_memory_is_flat_over_epochs_and_workers():
    spec = importlib.util.spec_from_file_location("loader_memory", Path(__file__).parent.parent / "bench" / "loader_memory.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    first, *_, last = bench.measure(workers=2, epochs=4, images=128, side=160)
    assert first["workers"] == last["workers"] == 2
    assert last["main_MB"] - first["main_MB"] < 8 and last["workers_MB"] - first["workers_MB"] < 12, (first, last)
