"""``make demo``: the whole way from a request to an answer, on real data, with what each step took.

Modules: ``run`` (the walk), ``platform`` (``modelyard up`` as a child), ``images`` (test images and the picture),
``timings`` (the table).
"""
