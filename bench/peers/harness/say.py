"""Progress, on stderr: stdout stays free."""

import sys
import time

BEGUN = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGUN:6.0f} s] {text}", file=sys.stderr, flush=True)
