"""All files into one table of tokens on the disk, in a stream; done once for a run and kept for its restarts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tuner.config.recipe import DatasetSettings
from tuner.data import detect, rows, shapes
from tuner.data.fetch import Fetched
from tuner.data.preview import SHOWN_CHARACTERS, SHOWN_SAMPLES, Preview, Source, Tally
from tuner.data.rows import BadRow, Row
from tuner.data.tokens import IGNORED, Encoder, Tokens
from tuner.exits import ExitCode, FatalError
from tuner.room import Room, require

TABLE: Final = "samples.arrow"
PREVIEW: Final = "preview.json"
MAX_HELD_OUT: Final = 1000
MIN_SAMPLES_TO_HOLD_OUT: Final = 20
MAX_STRANGE: Final = 10
"""First rows of a file whose columns match nothing, before the file is refused for them."""
_COLUMNAR: Final = (detect.Format.CSV, detect.Format.PARQUET)
"""Formats whose rows all have the columns of the first one."""
_BATCH: Final = 1000


Moved = Callable[[int], None]
"""Called with the number of rows that were read, after each."""


def prepare(
    files: Sequence[Fetched],
    settings: DatasetSettings,
    encoder: Encoder,
    folder: Path,
    room: Room | None = None,
    *,
    moved: Moved = lambda rows: None,
) -> Preview:
    """Write `folder`/samples.arrow and preview.json; a folder that has both is taken as it is. Raises FatalError.

    `room` is that of a folder above, where its size is limited.
    """
    try:
        return msgspec.json.decode((folder / PREVIEW).read_bytes(), type=Preview)
    except (FileNotFoundError, msgspec.MsgspecError):
        pass  # nothing yet, or a run that was interrupted: the preview is written last
    folder.mkdir(parents=True, exist_ok=True)
    stream = _Stream(settings, encoder, moved)
    _write(folder / TABLE, stream.read(files), room)
    tally = stream.tally
    if tally.samples == 0:
        skipped = f"; all {tally.rows} rows were skipped: {_worst(tally)}" if tally.rows else ""
        raise FatalError(ExitCode.DATA_INVALID, f"the data holds no sample to train on{skipped}")
    preview = tally.preview(stream.sources, ", ".join(sorted(encoder.used)))
    partial = folder / f".{PREVIEW}"
    partial.write_bytes(msgspec.json.encode(preview))
    partial.replace(folder / PREVIEW)
    return preview


def split(count: int, settings: DatasetSettings) -> tuple[list[int], list[int]]:
    """Return the numbers of the samples to train on and to hold out, in order of training. Pure."""
    order = list(range(count))
    if settings.shuffle:
        random.Random(settings.seed).shuffle(order)
    if settings.train_share >= 1 or count < MIN_SAMPLES_TO_HOLD_OUT:
        return order, []
    held = min(MAX_HELD_OUT, max(1, round(count * (1 - settings.train_share))), count - 1)
    return order[held:], order[:held]


def longest_first(order: Sequence[int], lengths: Sequence[int], count: int) -> list[int]:
    """Bring the `count` longest samples to the front; the others keep their order. Pure."""
    front = sorted(order, key=lambda number: -lengths[number])[:count]
    chosen = set(front)
    return [*front, *(number for number in order if number not in chosen)]


class _Stream:
    """The tokens of all files, counted while they pass."""

    def __init__(self, settings: DatasetSettings, encoder: Encoder, moved: Moved) -> None:
        self._settings = settings
        self._encoder = encoder
        self._moved = moved
        self.tally = Tally()
        self.sources: list[Source] = []

    def read(self, files: Sequence[Fetched]) -> Iterator[Tokens]:
        """Yield every sample. Raises FatalError."""
        for file in files:
            try:
                yield from self._file(file)
            except (detect.UnreadableError, shapes.ShapeError) as error:
                raise FatalError(ExitCode.DATA_INVALID, f"{file.shown}: {error}") from error
        self._judge(finished=True)

    def _file(self, file: Fetched) -> Iterator[Tokens]:
        detected = detect.detect(Path(file.path))
        shape, convert = "", None
        strange: list[shapes.ShapeError] = []
        rows_before, samples_before = self.tally.rows, self.tally.samples
        for row in rows.read(Path(file.path), detected):
            if self._settings.max_rows is not None and self.tally.samples >= self._settings.max_rows:
                break
            self.tally.rows += 1
            self._moved(self.tally.rows)
            if isinstance(row, BadRow):
                self._bad(row.why)
                continue
            if convert is None:
                try:
                    shape, convert = shapes.recognise(list(row), self._settings)
                except shapes.ShapeError as error:
                    strange.append(error)
                    if detected.format in _COLUMNAR or len(strange) > MAX_STRANGE:
                        raise
                    self._bad("its columns match no known form")
                    continue
            tokens = self._tokens(row, convert)
            if tokens is not None:
                yield tokens
        if convert is None and strange:
            raise strange[0]
        self.sources.append(
            Source(
                name=file.shown,
                format=detected.format.value + (" in gzip" if detected.gzip else ""),
                shape=shape,
                rows=self.tally.rows - rows_before,
                used=self.tally.samples - samples_before,
                sha256=file.sha256,
            )
        )

    def _tokens(self, row: Row, convert: shapes.Converter) -> Tokens | None:
        try:
            sample = convert(row)
            tokens = self._encoder.encode(sample)
        except shapes.RowError as error:
            self._bad(str(error))
            return None
        trained = sum(label != IGNORED for label in tokens.labels)
        if trained == 0:
            self.tally.without_loss += 1
            return None
        self.tally.take(
            length=len(tokens.ids),
            trained=trained,
            cut=tokens.cut,
            whole_loss=tokens.whole_loss,
            largest=max(tokens.ids),
        )
        if len(self.tally.examples) < SHOWN_SAMPLES:
            self.tally.examples.append(self._encoder.render(sample)[:SHOWN_CHARACTERS])
        return tokens

    def _bad(self, why: str) -> None:
        self.tally.bad[why] += 1
        self._judge(finished=False)

    def _judge(self, *, finished: bool) -> None:
        tally = self.tally
        # Where nothing is left at all, prepare() has better words.
        judged = tally.samples > 0 or not finished
        if judged and tally.too_many_bad(self._settings.max_bad_rows, finished=finished):
            raise FatalError(
                ExitCode.DATA_INVALID,
                f"{sum(tally.bad.values())} of {tally.rows} rows cannot be used, mostly because: {_worst(tally)}. "
                "Repair the data, or raise DatasetConfig.max_bad_rows",
            )


def _worst(tally: Tally) -> str:
    return tally.bad.most_common(1)[0][0] if tally.bad else "nothing of the answers is left at this max_length"


def _write(path: Path, stream: Iterator[Tokens], room: Room | None) -> None:
    import pyarrow

    ids = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema([("input_ids", ids), ("labels", ids), ("length", pyarrow.int32())])
    try:
        with path.open("wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
            batch: list[Tokens] = []
            for tokens in stream:
                batch.append(tokens)
                if len(batch) == _BATCH:
                    _append(writer, batch, schema, room)
                    batch.clear()
            if batch:
                _append(writer, batch, schema, room)
    except OSError as error:
        raise FatalError(ExitCode.DISK_FULL, f"{path.parent}: {error.strerror}; give the pod more disk") from error


def _append(writer: Any, batch: list[Tokens], schema: Any, room: Room | None) -> None:
    """Write a batch. Raises FatalError where the folder must not grow by it: a kubelet would evict the pod."""
    made = _record_batch(batch, schema)
    if room is not None:
        require(room, made.nbytes, "the table of tokens")
    writer.write_batch(made)


def _record_batch(batch: list[Tokens], schema: Any) -> Any:
    import pyarrow

    columns = [[tokens.ids for tokens in batch], [tokens.labels for tokens in batch], [len(t.ids) for t in batch]]
    return pyarrow.record_batch(
        [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
