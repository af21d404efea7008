"""docs/reference explains every value of the chart and every condition and reason (that it is up to date: tests/contract)."""

from pathlib import Path

import pytest
from reference import chart_values, conditions

from kaito_api.conditions import ClaimReason, Reason, WorkspaceCondition
from kaito_local.run.chart import CHART

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("chart", [".", "charts/workspace-controller", "charts/gpu-provisioner"])
def test_every_value_is_explained_where_it_stands_or_where_its_group_does(chart: str) -> None:
    rows = list(chart_values.rows(CHART / chart, "x." if chart != "." else ""))
    explained = {row[0] for row in rows if row[3]}
    groups = {name.strip("`") for name in explained}
    bare = [row[0].strip("`") for row in rows if not row[3]]
    assert len(rows) > 5
    assert [name for name in bare if name.rpartition(".")[0] not in groups] == []


def test_a_comment_belongs_to_the_key_below_it_alone(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(
        "# About\n# both.\na:\n  # One <b>.\n  b: 1\n  c: [x]\n# Loose.\n\nd: {e: no}\n"
    )
    (tmp_path / "values.schema.json").write_text(
        '{"properties": {"a": {"properties": {"b": {"type": "integer", "minimum": 0},'
        ' "c": {"type": "array", "items": {"type": "string"}}}}, "d": {"properties": {"e": {"type": "boolean"}}}}}'
    )
    assert list(chart_values.rows(tmp_path, "")) == [
        ("`a`", "", "", "About both."),
        ("`a.b`", "integer, at least 0", "`1`", "One &lt;b>."),
        ("`a.c`", "list of string", '`["x"]`', ""),
        ("`d.e`", "boolean", "`false`", ""),
    ]


def test_a_value_that_the_schema_does_not_know_ends_the_page(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("a: 1\nunknown: 2\n")
    (tmp_path / "values.schema.json").write_text('{"properties": {"a": {"type": "integer"}}}')
    with pytest.raises(KeyError, match="unknown"):
        list(chart_values.rows(tmp_path, ""))


def test_every_condition_and_reason_has_its_row_and_each_link_its_entry() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    page = conditions.page(text)
    for member in (*WorkspaceCondition, *Reason, *ClaimReason):
        assert f"`{member.value}`" in page
    entry = "The catalog has no such model."
    assert (
        f"| [`PresetUnknown`](../troubleshooting.md#presetunknown) | ResourceReady, WorkspaceSucceeded | {entry} |"
        in page
    )
    assert conditions.first_sentences(
        "### Gone\n\nIt went; see\n[Here](#here). More.\n\n## Alerts\n\n### Loud\nNo.\n"
    ) == {"Gone": "It went."}
