from services.serving.signature import Array

def write_floats(values: Array, size: int) -> list[str]:
    """Each ``size`` numbers of C-contiguous float32 values as ``[1.0, 0.333333343]``; 0: each one by itself.

    Raises:
        TypeError, BufferError, ValueError: other values.
        ValueError: they do not fill groups of that size.
    """
