"""A choice may be a whole object, and another parameter may set a field within it."""

from __future__ import annotations

from shared.specs import TuneJob, parse_job


def test_a_parameter_within_a_choice_leaves_the_choice_as_it_is() -> None:
    sgd = {"name": "SGD", "params": {"momentum": 0.9}}
    spec = parse_job(
        {
            "kind": "tune",
            "base": {"model": {"builder": "mlp"}, "dataset": {"npz": "ds_a"}},
            "space": {
                "fit.optimizer": {"choice": ["adam", sgd]},
                "fit.optimizer.params.nesterov": {"choice": [True, False], "when": {"fit.optimizer": sgd}},
            },
        }
    )
    assert isinstance(spec, TuneJob)
    for nesterov in (True, False):
        trial = spec.assigned({"fit.optimizer": sgd, "fit.optimizer.params.nesterov": nesterov})
        assert trial.fit.optimizer is not None
        assert trial.fit.optimizer.params == {"momentum": 0.9, "nesterov": nesterov}
    stored = spec.model_dump(mode="json")
    assert stored["space"]["fit.optimizer"]["choice"] == ["adam", sgd]
    assert parse_job(stored).model_dump(mode="json") == stored
