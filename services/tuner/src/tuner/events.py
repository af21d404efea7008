"""What the training child tells its supervisor: one JSON object a line over a Unix socket."""

from __future__ import annotations

import socket
from typing import Final, TypeAlias

import msgspec

from tuner.data.preview import Preview


class Reading(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The data is being read."""

    rows: int
    """So far, of all files."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The data is read."""

    preview: Preview


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first step is about to begin."""

    total_steps: int
    resumed_from: int
    micro_batch: int
    accumulation: int
    precision: str
    """Floating point type of the computation."""
    packing: str
    """How samples share a row, in words."""
    trainable_parameters: int


class Stepped(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One optimizer step is done."""

    step: int
    epoch: float
    loss: float | None
    learning_rate: float
    tokens_per_second: float
    peak_memory_bytes: int


class Evaluating(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The held-out samples are being looked at."""

    step: int
    """After which."""


class Evaluated(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The held-out samples were looked at."""

    step: int
    loss: float


class Saved(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A whole checkpoint is on the disk."""

    step: int


class Note(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something that the user should know."""

    message: str


class Estimated(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a dry run found out."""

    total_steps: int
    seconds: float
    tokens: int
    peak_memory_bytes: int


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The child cannot go on; `code` is an ExitCode."""

    code: int
    message: str
    before_steps: bool = False
    """It failed where the size of the micro-batch plays no part yet: reading the data, loading the base."""
    reason: str = ""
    """Where the code's own says too little (exits.FatalError)."""


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The adapter lies in the staging folder."""

    step: int


Event: TypeAlias = (
    Reading | Prepared | Started | Stepped | Evaluating | Evaluated | Saved | Note | Estimated | Failed | Finished
)
LINE_LIMIT: Final = 1 << 20
FIRST: Final = b"first\n"
"""First line of the connection of the process that speaks for all; the others connect only to tell how they failed."""
OTHER: Final = b"other\n"
_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)


def decode(line: bytes) -> Event | None:
    """Return the event of a line, None for anything else."""
    try:
        return _decoder.decode(line)
    except msgspec.MsgspecError:
        return None


class Emitter:
    """The child's end. A supervisor that is gone is no reason to lose a checkpoint: errors are remembered, not raised."""

    def __init__(self, address: str, *, first: bool = True) -> None:
        self._socket: socket.socket | None = None
        self._address = address
        self._first = first
        if first:
            self._connect(FIRST)

    def __call__(self, event: Event) -> None:
        """Send one event. Of a process that is not the first only its failure is sent."""
        if not self._first and isinstance(event, Failed):
            self._connect(OTHER)
        if self._socket is None:
            return
        try:
            self._socket.sendall(_encoder.encode(event) + b"\n")
        except OSError:
            self._socket.close()
            self._socket = None

    def _connect(self, greeting: bytes) -> None:
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(30)
            self._socket.connect(self._address)
            self._socket.sendall(greeting)
