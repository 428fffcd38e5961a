"""Timings of ebmjax; `python -m benchmarks` compares it with PyTorch."""
