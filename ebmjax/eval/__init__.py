"""Evaluation of a run: calibration, out-of-distribution, attacks, samples."""
