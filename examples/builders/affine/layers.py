"""The layer."""

import keras


@keras.saving.register_keras_serializable(package="affine")
class Affine(keras.layers.Layer):
    """f(x) = a1 * x + b1, element by element; a1 and b1 are two numbers for all of x."""

    def __init__(self, a1=1.0, b1=0.0, **kwargs):
        super().__init__(**kwargs)
        self.start = (a1, b1)

    def build(self, input_shape):
        a1, b1 = self.start
        self.a1 = self.add_weight(name="a1", initializer=keras.initializers.Constant(a1))
        self.b1 = self.add_weight(name="b1", initializer=keras.initializers.Constant(b1))

    def call(self, x):
        return self.a1 * x + self.b1

    def get_config(self):
        a1, b1 = self.start
        return {**super().get_config(), "a1": a1, "b1": b1}
