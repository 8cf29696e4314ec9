"""The collector of cycles, where a program asks for less of it."""

import gc

from wormspace.runtime.collector import collect_seldom


def test_who_collects_seldom_leaves_out_what_is_there_already():
    before = gc.get_threshold()
    there = len(gc.get_objects())
    try:
        collect_seldom()
        assert gc.get_freeze_count() > there // 2
        assert len(gc.get_objects()) < there // 2
        assert all(now > was for now, was in zip(gc.get_threshold(), before, strict=True))
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
