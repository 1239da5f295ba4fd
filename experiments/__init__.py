"""Estimator pipelines made of the library: the only place with plots, files, command lines and presets."""
