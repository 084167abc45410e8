"""The parity gate: a loaded version must answer as the training program did, before anybody is sent to it.

Export compares too, in the training program itself. Between it and a client's answer lie a copy, another process, maybe
another machine, another TensorFlow, LiteRT: what counts is what the server says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import ModelyardError

FOLDER = Path("assets.extra") / "modelyard"
ROWS_PER_REQUEST = 16
MOST_NUMBERS = 500_000  # of all requests together: a second of JSON
# The export's own tolerance is for one machine; another one's kernels add up in another order.
SMALLEST_TOLERANCE = 1e-4


class ParityMismatch(ModelyardError):
    """The model server answers otherwise than the training program did."""

    code = "parity_mismatch"


@dataclass(frozen=True, slots=True)
class Parity:
    """``largest_difference`` over all rows, relative to the largest answer (at least 1)."""

    rows: int
    largest_difference: float
    tolerance: float


def check(version: Path, predict: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Parity | None:
    """Ask the golden requests that lie beside a version; None where there are none.

    Args:
        version: its folder.
        predict: sends a predict request's JSON body to the loaded version, and returns the answer's.

    Raises:
        ParityMismatch: an answer is off by more than the tolerance, with the numbers.
    """
    import numpy as np  # the worker holds it only from here on

    try:
        notes = json.loads((version / FOLDER / "golden.json").read_text())
        with np.load(version / FOLDER / "golden.npz", allow_pickle=False) as archive:
            rows, expected = _some(archive["rows"]), archive["answers"]
    except (FileNotFoundError, KeyError):
        return None
    tolerance = max(float(notes["tolerance"]), SMALLEST_TOLERANCE)
    scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0)))
    worst, at = 0.0, 0
    for begin, inputs in _requests(notes, rows):
        answer = _output(predict({"signature_name": notes["signature"], "inputs": inputs}), notes["output"])
        wanted = expected[: len(rows)][begin : begin + ROWS_PER_REQUEST]
        given = np.asarray(answer, dtype=np.float64)
        if given.shape != wanted.shape:
            raise ParityMismatch(
                f"The model server answers {list(given.shape)} numbers where training answered {list(wanted.shape)}.",
                hint=_HINT,
            )
        off = np.abs(given - wanted)
        off[np.isnan(given) & np.isnan(wanted)] = 0.0  # trained on with on_nan = continue
        off[np.isnan(off)] = np.inf
        each = off.reshape(len(off), -1).max(axis=1) / scale
        if float(each.max()) > worst:
            worst, at = float(each.max()), begin + int(each.argmax())
    if worst > tolerance:
        raise ParityMismatch(
            f"On {len(rows)} rows of the data the model server's answers differ from training's by up to {worst:.3g} "
            f"(row {at}; at most {tolerance:.3g} is rounding).",
            hint=_HINT,
        )
    return Parity(len(rows), worst, tolerance)


_HINT = (
    "The version was taken away again, and labels are where they were. Is the model server's TensorFlow older than the "
    "worker's? Its log and the job's 'run' name both."
)


def _some(rows: Any) -> Any:
    return rows[: max(1, MOST_NUMBERS // max(1, rows[0].size))]


def _requests(notes: Mapping[str, Any], rows: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for begin in range(0, len(rows), ROWS_PER_REQUEST):
        end = begin + ROWS_PER_REQUEST
        if "inputs" in notes:  # a table's raw columns
            yield begin, {name: values[: len(rows)][begin:end] for name, values in notes["inputs"].items()}
        else:
            yield begin, {notes["input"]: rows[begin:end].astype("float32").tolist()}


def _output(answer: Mapping[str, Any], name: str) -> Any:
    outputs = answer["outputs"]
    return outputs[name] if isinstance(outputs, dict) else outputs
