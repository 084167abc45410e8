"""The training program: one job, one process. The only TensorFlow in the worker.

entry -> run -> data, models, compiling, fit, export        what a job goes through
emitter, lifeline, stopping, failures, timings               how the program talks and ends

It imports ``services.worker.protocol`` and ``shared.specs``; it knows no store and no queue.
"""
