"""The compiled steps against Keras' own loop, and the order of rows."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from services.worker.training import compiling, heads, models
from services.worker.training.data.order import Order
from services.worker.training.steps import Steps, first_bad
from shared.specs import BuilderModel, FitSpec
from tests.training.test_models import images


def _indices(order: Order, epoch: int) -> np.ndarray:
    long = tf.constant(epoch, tf.int64)
    steps = [order.indices(long, tf.constant(step, tf.int64)).numpy() for step in range(order.steps)]
    return np.concatenate(steps)


class OrderTest(tf.test.TestCase):
    def test_an_epoch_visits_each_row_once_in_an_order_of_its_own(self) -> None:
        order = Order(rows=103, batch=10, seed=4)
        assert order.steps == 11
        first, second = _indices(order, 0), _indices(order, 1)
        self.assertAllEqual(np.sort(first), np.arange(103))
        self.assertAllEqual(np.sort(second), np.arange(103))
        self.assertNotAllEqual(first, second)
        self.assertNotAllEqual(first, np.arange(103))

    def test_the_seed_decides(self) -> None:
        self.assertAllEqual(_indices(Order(50, 8, 1), 3), _indices(Order(50, 8, 1), 3))
        self.assertNotAllEqual(_indices(Order(50, 8, 1), 3), _indices(Order(50, 8, 2), 3))

    def test_without_shuffling_rows_come_as_they_lie(self) -> None:
        self.assertAllEqual(_indices(Order(20, 8, 1, shuffle=False), 5), np.arange(20))

    def test_a_set_number_of_steps_is_a_window_over_endless_passes(self) -> None:
        order = Order(rows=10, batch=4, seed=4, steps_per_epoch=5)
        window = np.concatenate([_indices(order, 0), _indices(order, 1)])
        for start in range(0, 40, 10):
            self.assertAllEqual(np.sort(window[start : start + 10]), np.arange(10))
        # a pass is shuffled as an epoch of the ordinary kind is
        self.assertAllEqual(window[10:20], _indices(Order(rows=10, batch=10, seed=4), 1))


class StepsTest(tf.test.TestCase):
    def _steps(self, shuffle: bool = False) -> tuple[keras.Model, Steps]:
        keras.utils.set_random_seed(7)
        data = images(rows=70)
        model = models.build(BuilderModel(builder="lenet5"), data)
        compiled = compiling.compile_model(model, FitSpec(), data, heads.head_of(model))
        return model, Steps(model, data.train, Order(70, 16, 1, shuffle=shuffle), compiled)

    def test_the_same_numbers_as_keras_own_fit(self) -> None:
        model, steps = self._steps()
        twin = keras.models.clone_model(model)
        twin.set_weights(model.get_weights())
        twin.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        x, y = steps._x.numpy(), steps._y.numpy()
        history = twin.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0).history
        for epoch in range(2):
            steps.reset()
            steps.train(epoch, 0, 2)
            _, logs = steps.train(epoch, 2, 3)
            self.assertAllClose(logs["loss"], history["loss"][epoch], rtol=1e-5)
            self.assertAllClose(logs["accuracy"], history["accuracy"][epoch])
        for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
            self.assertAllClose(ours, theirs, atol=1e-5)
        steps.reset()
        tested = steps.test((steps._x, steps._y), 0, 5)
        expected = twin.evaluate(x, y, batch_size=16, verbose=0, return_dict=True)
        self.assertAllClose(tested["loss"], expected["loss"], rtol=1e-4)
        self.assertAllClose(tested["accuracy"], expected["accuracy"])

    def test_how_steps_are_cut_into_calls_changes_nothing(self) -> None:
        model, steps = self._steps(shuffle=True)
        start = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
        whole, _ = steps.train(0, 0, 5)
        after = model.get_weights()
        for variable, value in zip((*model.variables, *model.optimizer.variables), start, strict=True):
            variable.assign(value)
        parts = [steps.train(0, 0, 1)[0], steps.train(0, 1, 4)[0]]
        self.assertAllClose(np.concatenate(parts), whole, rtol=1e-6)
        for one, other in zip(after, model.get_weights(), strict=True):
            self.assertAllClose(one, other, atol=1e-6)

    def test_the_first_bad_loss_is_found(self) -> None:
        assert first_bad(np.array([1.0, 2.0])) is None
        assert first_bad(np.array([1.0, np.inf, np.nan])) == 1
