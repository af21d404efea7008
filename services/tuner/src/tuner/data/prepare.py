"""All files into one table of tokens on the disk, in a stream; done once for a run and kept for its restarts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
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

TABLE: Final = "samples.arrow"
PREVIEW: Final = "preview.json"
MAX_HELD_OUT: Final = 1000
MIN_SAMPLES_TO_HOLD_OUT: Final = 20
_BATCH: Final = 1000


def prepare(files: Sequence[Fetched], settings: DatasetSettings, encoder: Encoder, folder: Path) -> Preview:
    """Write `folder`/samples.arrow and preview.json; a folder that has both is taken as it is. Raises FatalError."""
    try:
        return msgspec.json.decode((folder / PREVIEW).read_bytes(), type=Preview)
    except (FileNotFoundError, msgspec.MsgspecError):
        pass  # nothing yet, or a run that was interrupted: the preview is written last
    folder.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    sources: list[Source] = []
    _write(folder / TABLE, _all_tokens(files, settings, encoder, tally, sources))
    if tally.samples == 0:
        skipped = f"; all {tally.rows} rows were skipped: {_worst(tally)}" if tally.rows else ""
        raise FatalError(ExitCode.DATA_INVALID, f"the data holds no sample to train on{skipped}")
    preview = tally.preview(sources, ", ".join(sorted(encoder.used)))
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
    held = min(MAX_HELD_OUT, max(1, round(count * (1 - settings.train_share))))
    return order[held:], order[:held]


def _all_tokens(
    files: Sequence[Fetched], settings: DatasetSettings, encoder: Encoder, tally: Tally, sources: list[Source]
) -> Iterator[Tokens]:
    for file in files:
        path = Path(file.path)
        try:
            detected = detect.detect(path)
            reader = rows.read(path, detected)
            yield from _file_tokens(file, detected, reader, settings, encoder, tally, sources)
        except (detect.UnreadableError, shapes.ShapeError) as error:
            raise FatalError(ExitCode.DATA_INVALID, f"{file.shown}: {error}") from error
        if settings.max_rows is not None and tally.samples >= settings.max_rows:
            return
    _judge_bad(tally, settings, finished=True)


def _file_tokens(
    file: Fetched,
    detected: detect.Detected,
    reader: Iterator[Row | BadRow],
    settings: DatasetSettings,
    encoder: Encoder,
    tally: Tally,
    sources: list[Source],
) -> Iterator[Tokens]:
    shape: shapes.Shape | None = None
    convert: shapes.Converter | None = None
    before_rows, before_samples = tally.rows, tally.samples
    for row in reader:
        tally.rows += 1
        if isinstance(row, BadRow):
            _bad(tally, settings, row.why)
            continue
        if convert is None:
            shape, convert = shapes.recognise(list(row), settings)
        tokens = _tokens(row, convert, encoder, tally, settings)
        if tokens is not None:
            yield tokens
        if settings.max_rows is not None and tally.samples >= settings.max_rows:
            break
    sources.append(
        Source(
            name=file.shown,
            format=detected.format.value + (" in gzip" if detected.gzip else ""),
            shape=shape.value if shape is not None else "",
            rows=tally.rows - before_rows,
            used=tally.samples - before_samples,
            sha256=file.sha256,
        )
    )


def _tokens(
    row: Row, convert: shapes.Converter, encoder: Encoder, tally: Tally, settings: DatasetSettings
) -> Tokens | None:
    try:
        sample = convert(row)
        tokens = encoder.encode(sample)
    except shapes.RowError as error:
        _bad(tally, settings, str(error))
        return None
    trained = sum(label != IGNORED for label in tokens.labels)
    if trained == 0:
        tally.without_loss += 1
        return None
    tally.take(length=len(tokens.ids), trained=trained, cut=tokens.cut, whole_loss=tokens.whole_loss)
    if len(tally.examples) < SHOWN_SAMPLES:
        tally.examples.append(encoder.render(sample)[:SHOWN_CHARACTERS])
    return tokens


def _bad(tally: Tally, settings: DatasetSettings, why: str) -> None:
    tally.bad[why] += 1
    _judge_bad(tally, settings, finished=False)


def _judge_bad(tally: Tally, settings: DatasetSettings, *, finished: bool) -> None:
    if tally.too_many_bad(settings.max_bad_rows, finished=finished):
        raise FatalError(
            ExitCode.DATA_INVALID,
            f"{sum(tally.bad.values())} of {tally.rows} rows cannot be used, mostly because: {_worst(tally)}. Repair the "
            "data, or raise DatasetConfig.max_bad_rows",
        )


def _worst(tally: Tally) -> str:
    return tally.bad.most_common(1)[0][0] if tally.bad else "nothing of the answers is left at this max_length"


def _write(path: Path, stream: Iterator[Tokens]) -> None:
    import pyarrow

    ids = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema([("input_ids", ids), ("labels", ids), ("length", pyarrow.int32())])
    try:
        with path.open("wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
            batch: list[Tokens] = []
            for tokens in stream:
                batch.append(tokens)
                if len(batch) == _BATCH:
                    writer.write_batch(_record_batch(batch, schema))
                    batch.clear()
            if batch:
                writer.write_batch(_record_batch(batch, schema))
    except OSError as error:
        raise FatalError(ExitCode.DISK_FULL, f"{path.parent}: {error.strerror}; give the pod more disk") from error


def _record_batch(batch: list[Tokens], schema: Any) -> Any:
    import pyarrow

    columns = [[tokens.ids for tokens in batch], [tokens.labels for tokens in batch], [len(t.ids) for t in batch]]
    return pyarrow.record_batch(
        [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
