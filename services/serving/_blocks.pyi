def read_block(body: bytes, at: int, shape: tuple[int, ...]) -> tuple[int, int, bytearray] | None:
    """The nested JSON arrays that begin at ``body[at]``, any number of rows of numbers of ``shape``.

    Returns (rows, where the block ends, float32 values in row-major order); None for anything that is not exactly
    that, and for numbers beyond float32 or int64.
    """
