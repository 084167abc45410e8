"""How much each parameter matters to an objective: Optuna's PED-ANOVA, which needs no scikit-learn.

Optuna is loaded when it is first asked: it takes half a second and some 60 MB.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from typing import Any

from shared.errors import Conflict
from shared.specs import TuneJob
from shared.specs.space import Choice, Int, LogUniform, Uniform, as_category
from shared.store.trial_pages import Ended

FEWEST = 5
BEST_SHARE, BEST_TRIALS = 0.1, 5  # the best tenth, but no fewer than five and no more than half
FEW_VALUES = 10  # a number with no more of them, as in a grid, is compared value by value
# More say no more, and take longer.
MOST = 5000
_one_at_a_time = threading.Lock()


def importances(spec: TuneJob, index: int, rows: Sequence[Ended]) -> tuple[dict[str, float], list[str], int]:
    """(parameter -> share, largest first; parameters that only some trials have; trials that were compared).

    Args:
        index: of the objective.
        rows: complete trials.

    Raises:
        Conflict: there are too few, or they are all alike.
    """
    known = [row for row in rows if row.values and math.isfinite(row.values[index])][-MOST:]
    if len(known) < FEWEST:
        raise Conflict(
            f"{len(known)} trials are complete; importance needs at least {FEWEST}.",
            code="too_few_trials",
            hint="Ask again when more have ended.",
        )
    if len({row.values[index] for row in known if row.values}) < 2:
        raise Conflict(
            f"All {len(known)} trials have the same {spec.objective[index].metric}: no parameter explains a "
            "difference.",
            code="no_differences",
        )
    everywhere = [name for name in spec.space if all(name in row.params for row in known)]
    partly = [name for name in spec.space if name not in everywhere]
    varied = [name for name in everywhere if len({as_category(row.params[name]) for row in known}) > 1]
    found = _evaluated(spec, index, known, varied) if varied else {}
    shares = {**found, **{name: 0.0 for name in everywhere if name not in found}}
    return shares, partly, len(known)


def _evaluated(spec: TuneJob, index: int, rows: Sequence[Ended], names: list[str]) -> dict[str, float]:
    with _one_at_a_time:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        plain = {name: _is_continuous(spec.space[name], [row.params[name] for row in rows]) for name in names}
        distributions = {
            name: _distribution(optuna.distributions, spec.space[name], [row.params[name] for row in rows])
            if plain[name]
            else optuna.distributions.CategoricalDistribution(
                list(dict.fromkeys(_text(row.params[name]) for row in rows))
            )
            for name in names
        }
        study = optuna.study.create_study(
            storage=optuna.storages.InMemoryStorage(), direction=spec.objective[index].direction
        )
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={
                        name: row.params[name] if plain[name] else _text(row.params[name]) for name in names
                    },
                    distributions=distributions,
                    value=(row.values or [])[index],
                )
                for row in rows
            ]
        )
        share = min(0.5, max(BEST_SHARE, BEST_TRIALS / len(rows)))
        evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
        return dict(get_param_importances(study, evaluator=evaluator, params=names, normalize=True))


def _text(value: Any) -> str:
    """1 and true are two choices, but one to Python."""
    return json.dumps(value, sort_keys=True)


def _is_continuous(parameter: Any, tried: Sequence[Any]) -> bool:
    return not isinstance(parameter, Choice) and len(set(tried)) > FEW_VALUES


def _distribution(kinds: Any, parameter: Any, tried: Sequence[Any]) -> Any:
    """A number's, widened to values that trials of an earlier study had."""
    match parameter:
        case Int():
            first, last = parameter.int_
            return kinds.IntDistribution(min(first, *tried), max(last, *tried), log=parameter.log)
        case LogUniform(loguniform=(low, high)):
            return kinds.FloatDistribution(min(low, *tried), max(high, *tried), log=True)
        case Uniform(uniform=(low, high)):
            return kinds.FloatDistribution(min(low, *tried), max(high, *tried))
    raise TypeError(f"{type(parameter).__name__} has no distribution")
