"""Pictures of a study, drawn from the API's numbers with Matplotlib."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import InvalidInput, Misconfigured
from shared.study_views import Axis, HistoryView, ImportanceView, ParallelView
from shared.trials import TrialStatus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_TICKS = 50
SUFFIXES = (".png", ".svg", ".pdf")
_COLOURS = {
    TrialStatus.COMPLETE: "#1f77b4",
    TrialStatus.PRUNED: "#aaaaaa",
    TrialStatus.FAILED: "#d62728",
    TrialStatus.CANCELLED: "#9467bd",
}


def checked_target(path: str | os.PathLike[str]) -> Path:
    """``path``, if a picture can be written there.

    Raises:
        InvalidInput: another kind of file, or no such folder.
        Misconfigured: Matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{target.name!r}: a picture's name ends in {', '.join(SUFFIXES)}.")
    if not target.parent.is_dir():
        raise InvalidInput(f"There is no folder {str(target.parent)!r}.")
    _pyplot_free_figure((1, 1))
    return target


def history(view: HistoryView) -> Figure:
    """Each trial's value, and the best so far as a line."""
    figure = _pyplot_free_figure((9, 5))
    axes = figure.subplots()
    for status, colour in _COLOURS.items():
        found = [(p.number, p.value) for p in view.points if p.status is status and p.value is not None]
        if found:
            numbers, heights = zip(*found, strict=True)
            axes.scatter(numbers, heights, s=18, color=colour, label=str(status))
    best = [(point.number, point.best) for point in view.points if point.best is not None]
    if best:
        axes.step(*zip(*best, strict=True), where="post", color="#ff7f0e", label="best so far")
    metric = _plain(view.metric)
    axes.set(xlabel="trial", ylabel=metric, title=f"{metric} by trial ({view.total} ended)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


def importance(view: ImportanceView) -> Figure:
    """A bar for each parameter, the most important one on top."""
    names = list(view.importances)[::-1]
    figure = _pyplot_free_figure((9, 1.5 + 0.4 * len(names)))
    axes = figure.subplots()
    bars = axes.barh(names, [view.importances[name] for name in names], color="#1f77b4")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    title = f"Importance for {_plain(view.metric)} ({view.evaluator}, {view.trials} trials)"
    axes.set(xlim=(0, 1.1), xlabel="share", title=title)
    return figure


def parallel(view: ParallelView) -> Figure:
    """A line for each trial that has all its values, coloured by the first objective."""
    figure = _pyplot_free_figure((max(8, 1.8 * len(view.axes)), 6))
    axes = figure.subplots()
    columns = [_positions(axis, [line.values[i] for line in view.lines]) for i, axis in enumerate(view.axes)]
    objective = len(view.axes) - len(view.objectives)
    rows = [list(row) for row in zip(*columns, strict=True)]
    drawn = [row for row in rows if row[objective] is not None]
    if view.objectives and view.objectives[0].mode == "min":
        ranked = sorted(drawn, key=lambda row: -row[objective])
    else:
        ranked = sorted(drawn, key=lambda row: row[objective])
    for rank, row in enumerate(ranked):  # the best ones on top
        points = [(x, y) for x, y in enumerate(row) if y is not None]
        shade = (rank + 1) / len(ranked)
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=(0.12, 0.35, 0.85),
            alpha=0.08 + 0.8 * shade**3,
        )
    axes.set_xticks(range(len(view.axes)), [_plain(axis.name) for axis in view.axes], rotation=20, ha="right")
    axes.set(
        ylim=(-0.08, 1.08), yticks=[], title=f"{len(ranked)} of {view.total} trials, the best ones darkest"
    )
    for x, axis in enumerate(view.axes):
        axes.axvline(x, color="black", linewidth=0.6)
        for height, text in _ticks(axis):
            axes.annotate(_plain(text), (x, height), xytext=(3, 0), textcoords="offset points", fontsize=8)
    return figure


def save(figure: Figure, target: Path) -> Path:
    """Write the picture; its kind is the name's.

    Raises:
        InvalidInput: it can't be written.
    """
    try:
        figure.savefig(target, dpi=120)
    except OSError as error:
        raise InvalidInput(f"{target} can't be written: {error.strerror}.") from None
    return target


def _pyplot_free_figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise Misconfigured(
            "Pictures need Matplotlib, which is not installed.",
            code="matplotlib_missing",
            hint="pip install matplotlib, or take the numbers with --json.",
        ) from None
    return Figure(figsize=size, layout="constrained")


def _positions(axis: Axis, values: Sequence[Any]) -> list[float | None]:
    """Heights on the axis, 0 to 1."""
    if axis.kind == "category":
        known = axis.categories or []
        last = max(1, len(known) - 1)
        return [known.index(value) / last if value in known else None for value in values]
    return [None if value is None else _height(axis, float(value)) for value in values]


def _height(axis: Axis, value: float) -> float:
    low, high = axis.range or (value, value)
    if axis.log and low > 0 and value > 0:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.5


def _plain(text: str) -> str:
    """As it is: between two dollars Matplotlib would read a formula."""
    return text.replace("$", r"\$")


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    if axis.kind == "category":
        last = max(1, len(axis.categories or ()) - 1)
        every = -(-last // _MOST_TICKS)
        known = list(enumerate(axis.categories or ()))
        return [(i / last, str(value)[:24]) for i, value in known if i % every == 0 or i == last]
    if axis.range is None:
        return []
    return [(_height(axis, value), f"{value:.4g}") for value in dict.fromkeys(axis.range)]
