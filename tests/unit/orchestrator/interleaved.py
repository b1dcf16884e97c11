"""Another thread's work at every place of a function, one place after the other, without luck."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


def interrupted_at(
    turn: int, code: CodeType, work: Callable[[], Any], other: Callable[[], Any]
) -> bool:
    """Runs `work`, and `other` whole on another thread before the bytecode of `code`, or of a
    comprehension in it, with that number. False where `work` has not so many: then `other` has not
    run.
    """
    count, codes = 0, {code, *(const for const in code.co_consts if isinstance(const, CodeType))}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if count == turn:
                thread = threading.Thread(target=other)
                thread.start()
                thread.join()
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count > turn
