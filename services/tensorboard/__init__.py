"""TensorBoard as a process of its own, without TensorFlow."""
