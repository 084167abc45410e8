"""Pictures of a study: whatever parameters, values and metrics are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard import plots
from shared.study_views import Axis, ObjectiveView, ParallelLine, ParallelView
from shared.trials import TrialStatus

pytest.importorskip("matplotlib")


def test_dollars_are_no_formula_and_a_thousand_choices_no_thousand_labels(tmp_path: Path) -> None:
    names = ["$x^", "$_$", *map(str, range(998))]
    view = ParallelView(
        axes=[
            Axis(name="units", kind="category", categories=names),
            Axis(name="$_$", kind="number", range=(0.0, 1.0)),
        ],
        objectives=[ObjectiveView(metric="$_$", mode="min")],
        lines=[ParallelLine(number=0, status=TrialStatus.COMPLETE, values=["$_$", 0.5])],
        total=1,
    )
    figure = plots.parallel(view)
    assert len(figure.axes[0].texts) < 60
    assert plots.save(figure, tmp_path / "p.svg").stat().st_size > 0
