"""The control plane: a FastAPI application that takes jobs, shows their life, and forwards predictions.

``app`` puts it together, ``routes`` translate HTTP, ``submission`` decides. TensorFlow is never imported here.
"""
