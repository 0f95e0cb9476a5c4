"""Benchmarks: time, memory, and convergence rates."""
