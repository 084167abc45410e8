"""HTTP on one side, ``shared`` and the use cases on the other. Routes translate; they decide nothing."""
