"""Reports: what one pod writes the controller reads, it always fits, and junk is never an error."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito_api.report import (
    ANNOTATION_LIMIT,
    TERMINATION_LIMIT,
    AdapterReport,
    EngineReport,
    OutputReport,
    Progress,
    Report,
    TuningReport,
    decode,
    encode,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FULL = Report(
    state="Training",
    at=AT,
    reason="EngineStarting",
    message="step 3 of 10",
    progress=Progress(phase="weights", done=1, total=2, unit="bytes"),
    engine=EngineReport(
        version="0.32.0",
        dtype="bfloat16",
        max_model_len=4096,
        max_loras=4,
        max_lora_rank=64,
        device="cpu",
        kv_cache_tokens=9000,
    ),
    adapters=[
        AdapterReport(name="poet", image="r/p:1", digest="sha256:0", strength="0.5", state="Ready", load_seconds=1.5)
    ],
    tuning=TuningReport(step=3, total_steps=10, epoch=0.3, loss=1.25, tokens_per_second=100.5, eta_seconds=70),
    output=OutputReport(image="r/a:1", digest="sha256:1", size_bytes=7),
)


def test_a_report_comes_back_whole() -> None:
    assert decode(encode(FULL).decode()) == FULL


def test_the_names_on_the_wire_are_stable() -> None:
    """The format is a contract between images of different releases."""
    wire = json.loads(encode(FULL))
    assert wire == {
        "state": "Training",
        "at": "2026-01-02T03:04:05Z",
        "reason": "EngineStarting",
        "message": "step 3 of 10",
        "progress": {"phase": "weights", "done": 1, "total": 2, "unit": "bytes"},
        "engine": {
            "version": "0.32.0",
            "dtype": "bfloat16",
            "maxModelLen": 4096,
            "maxLoras": 4,
            "maxLoraRank": 64,
            "device": "cpu",
            "kvCacheTokens": 9000,
        },
        "adapters": [
            {
                "name": "poet",
                "image": "r/p:1",
                "digest": "sha256:0",
                "strength": "0.5",
                "state": "Ready",
                "loadSeconds": 1.5,
            }
        ],
        "tuning": {
            "step": 3,
            "totalSteps": 10,
            "epoch": 0.3,
            "loss": 1.25,
            "tokensPerSecond": 100.5,
            "etaSeconds": 70,
        },
        "output": {"image": "r/a:1", "digest": "sha256:1", "sizeBytes": 7},
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "killed",
        '{"state":"Ready"}',
        '{"state":"Ready","at":"yesterday"}',
        '{"state":"Ready","at":"2026-01-02T03:04:05"}',
        '{"state":7,"at":"2026-01-02T03:04:05Z"}',
        '{"state":"Ready","at":"2026-01-02T03:04:05Z","v":2}',
        '{"state":"Ready","at":"2026-01-02T03:04:05Z","progress":{"phase":"p","done":-1}}',
        '{"state":"Ready","at":"2026-01-02T03:04:05Z","progress":{"phase":"p","done":9223372036854775808}}',
        '{"state":"Ready","at":"2026-01-02T03:04:05Z","tuning":{"loss":1e999}}',
        '{"state":"Ready","at":"2026-01-02T03:04:05Z","tuning":{"loss":NaN}}',
        '{"state":"Ready","at":"2026-01-02T03:04:05Z","adapters":[{"name":"a","loadSeconds":1e19}]}',
        '{"state":"Ready","at":"0001-01-01T00:00:00+14:00"}',
        '{"state":"Ready","at":"9999-12-31T23:59:59-12:00"}',
        '{"state":"Ready","at":"2026-01-02T03:04:05Z","x":' + "[" * 8000 + "]" * 8000 + "}",
        '{"state":"Ready","at":"2026-01-02T03:04:05Z","x":' + '{"a":' * 3000,
        '{"state":"\ud800","at":"2026-01-02T03:04:05Z"}',
        '{"state":"Ready","at":"2026-01-02T03:04:05Z","message":"' + "x" * ANNOTATION_LIMIT + '"}',
    ],
)
def test_junk_is_none(text: str) -> None:
    assert decode(text) is None


def test_fields_of_a_later_release_are_ignored() -> None:
    report = decode('{"state":"Ready","at":"2026-01-02T03:04:05Z","mood":"good","engine":{"wings":2}}')
    assert report == Report(state="Ready", at=AT, engine=EngineReport())


@given(st.text())
def test_any_text_is_a_report_or_none(text: str) -> None:
    assert decode(text) is None or isinstance(decode(text), Report)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5), st.lists
)


@given(st.dictionaries(st.sampled_from([*Report.__struct_fields__, "x"]), JSON, max_size=6))
def test_any_json_object_is_a_report_or_none(content: dict[str, Any]) -> None:
    decode(json.dumps({"state": "Ready", "at": "2026-01-02T03:04:05Z"} | content))


TEXT = st.text(max_size=40) | st.text(min_size=1, max_size=3).map(lambda text: text * 2000)
ADAPTERS = st.builds(AdapterReport, name=TEXT, message=TEXT, state=st.sampled_from(["Ready", "Failed"]), image=TEXT)
REPORTS = st.builds(
    Report,
    state=TEXT,
    at=st.just(AT),
    reason=TEXT,
    message=TEXT,
    adapters=st.lists(ADAPTERS, max_size=30),
    tuning=st.none() | st.builds(TuningReport, checkpoint=TEXT),
)


@settings(max_examples=200)
@given(REPORTS, st.sampled_from([1024, TERMINATION_LIMIT, ANNOTATION_LIMIT]))
def test_every_report_fits_and_can_be_read_again(report: Report, limit: int) -> None:
    data = encode(report, limit)
    assert len(data) <= limit
    again = decode(data.decode())
    assert again is not None
    assert report.state.startswith(again.state)
    assert again.at == AT


def test_what_gives_way_first_is_what_is_well() -> None:
    well = [AdapterReport(name=f"well-{i}", state="Ready", image="r/" + "i" * 300) for i in range(60)]
    ill = AdapterReport(name="ill", state="Failed", reason="AccessDenied", message="m" * 5000)
    report = decode(encode(Report(state="Ready", at=AT, message="up", adapters=[*well, ill])).decode())
    assert report is not None
    assert report.adapters[0].name == "ill"
    assert 0 < len(report.adapters) < 61
    assert report.message == f"up ({61 - len(report.adapters)} of 61 adapters left out)"


def test_a_long_message_is_cut_before_anything_is_left_out() -> None:
    report = decode(encode(msgspec.structs.replace(FULL, message="x" * 100_000)).decode())
    assert report is not None
    assert report.message == "x" * 2047 + "…"
    assert report.adapters == FULL.adapters


@pytest.mark.parametrize("limit", [1024, 16384])
def test_words_of_a_foreign_file_that_are_no_text_do_not_silence_the_container(limit: int) -> None:
    """A writer that fails on them would end the server, and its last word with it."""
    adapter = AdapterReport(
        name="tax", state="Failed", reason="AdapterFileMissing", message="adapter_\udcff.bin is a pickle"
    )
    report = decode(
        encode(Report(state="Failed", at=AT, message="half a pair: \ud83d", adapters=[adapter]), limit).decode()
    )
    assert report is not None
    assert (report.message, report.at) == ("half a pair: ?", AT)
    assert [item.message for item in report.adapters] == ["adapter_?.bin is a pickle"]


def test_a_limit_that_no_report_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1024"):
        encode(FULL, 100)
