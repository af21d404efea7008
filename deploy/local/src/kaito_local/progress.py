"""Words for the person who waits: one line a step, on stderr, so that stdout keeps the result alone."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Prints one line to the person at the terminal."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Announces a step when it ends, with the seconds it took."""
    began = time.monotonic()
    yield
    say(f"  {name:<44} {time.monotonic() - began:6.1f} s")
