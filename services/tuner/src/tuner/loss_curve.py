"""The loss over the steps as a small SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WIDTH: Final = 480
HEIGHT: Final = 160
_MARGIN: Final = 8

Points = Sequence[tuple[int, float]]


def svg(losses: Points, eval_losses: Points) -> str:
    """Draw both curves to one scale; "" where there is nothing to draw."""
    every = [*losses, *eval_losses]
    if len(losses) < 2:
        return ""
    last = max(step for step, _ in every)
    top = max(loss for _, loss in every) or 1.0
    label = f'<text x="{_MARGIN}" y="14" font-size="11">loss, 0 to {top:.3g}; steps, 1 to {last}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f"{_line(losses, last, top, '#1f77b4')}{_line(eval_losses, last, top, '#d62728')}{label}</svg>"
    )


def _line(points: Points, last: int, top: float, colour: str) -> str:
    if len(points) < 2:
        return ""
    placed = " ".join(
        f"{_MARGIN + (WIDTH - 2 * _MARGIN) * step / last:.1f},{HEIGHT - _MARGIN - (HEIGHT - 2 * _MARGIN) * loss / top:.1f}"
        for step, loss in points
    )
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{placed}"/>'
