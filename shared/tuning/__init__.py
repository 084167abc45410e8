"""Optuna at work on our studies: what to try next, what to end early, what counts as better."""
