"""One thing that is wrong in the file."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """`path` within the file ("" for the file as a whole) and what is wrong there, with what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path} {self.message}".strip()
