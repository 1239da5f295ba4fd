"""Measurements, as ratios side by side in one run. Not tests: timings are never asserted."""
