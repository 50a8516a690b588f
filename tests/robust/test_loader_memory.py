"The memory of a loader and its workers does not grow with the epochs."
import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_memory_is_flat_over_epochs_and_workers():
    spec = importlib.util.spec_from_file_location("loader_memory", Path(__file__).parent.parent / "bench" / "loader_memory.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rows = bench.measure(workers=2, epochs=14, images=64, side=160)  # workers touch more of their pages during the first epochs, until they have touched all
    first, last = rows[7], rows[-1]
    assert first["workers"] == last["workers"] == 2
    assert last["main_MB"] - first["main_MB"] < 5 and last["workers_MB"] - first["workers_MB"] < 5, rows
