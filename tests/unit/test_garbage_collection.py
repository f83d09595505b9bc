"""The garbage collector of processes that hold thousands of runs: what started with them is never walked."""

from __future__ import annotations

import subprocess
import sys


def test_a_frozen_heap_is_left_alone_by_collections() -> None:
    # In a process of its own: what is frozen stays frozen.
    program = """if True:
        import gc
        from mainstem_shared import garbage_collection

        garbage_collection.freeze()
        started_with = gc.get_freeze_count()
        assert started_with > 1000, started_with
        assert gc.get_threshold() == garbage_collection.THRESHOLDS

        class Knot:
            pass

        knots = [Knot() for _ in range(100_000)]
        for knot in knots:
            knot.itself = knot
        del knots, knot
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, Knot)]
        assert gc.get_freeze_count() <= started_with
        print("settled")
    """
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "settled", done.stderr
