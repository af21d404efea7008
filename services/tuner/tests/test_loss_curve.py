"""The picture of the loss, read back from its SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tuner.loss_curve import HEIGHT, WIDTH, svg

SVG = "{http://www.w3.org/2000/svg}"
MARGIN = 8
LOSSES = [(1, 4.0), (2, 3.0), (5, 3.5), (10, 0.0)]
HELD_OUT = [(5, 2.0), (10, 1.0)]


def curves(picture: str) -> list[list[tuple[float, float]]]:
    """The corners of each curve, in pixels from the top left."""
    lines = ElementTree.fromstring(picture).iter(f"{SVG}polyline")
    pairs = [[corner.split(",") for corner in line.attrib["points"].split()] for line in lines]
    return [[(float(x), float(y)) for x, y in line] for line in pairs]


@pytest.mark.parametrize(("losses", "held_out"), [(LOSSES, []), (LOSSES, HELD_OUT), (LOSSES[:2], [(2, 8.0), (4, 1.0)])])
def test_every_corner_is_a_loss_at_its_step_on_one_scale(
    losses: list[tuple[int, float]], held_out: list[tuple[int, float]]
) -> None:
    drawn = curves(svg(losses, held_out))
    given = [points for points in (losses, held_out) if points]
    assert [len(line) for line in drawn] == [len(points) for points in given]
    top, last = max(loss for _, loss in losses + held_out), max(step for step, _ in losses + held_out)
    for line, points in zip(drawn, given, strict=True):
        assert [(x - MARGIN) / (WIDTH - 2 * MARGIN) for x, _ in line] == pytest.approx(
            [step / last for step, _ in points], abs=1e-3
        )
        assert [(HEIGHT - MARGIN - y) / (HEIGHT - 2 * MARGIN) for _, y in line] == pytest.approx(
            [loss / top for _, loss in points], abs=1e-3
        )


def test_the_scale_is_said() -> None:
    label = ElementTree.fromstring(svg(LOSSES, HELD_OUT)).find(f"{SVG}text")
    assert label is not None
    assert label.text == "loss, 0 to 4; steps, 1 to 10"


@pytest.mark.parametrize("losses", [[], [(1, 2.0)]])
def test_one_point_is_no_curve(losses: list[tuple[int, float]]) -> None:
    assert svg(losses, []) == ""


def test_a_single_evaluation_is_left_out_and_losses_of_nothing_lie_on_the_ground() -> None:
    (line,) = curves(svg([(1, 0.0), (2, 0.0)], [(2, 0.0)]))
    assert {y for _, y in line} == {HEIGHT - MARGIN}
