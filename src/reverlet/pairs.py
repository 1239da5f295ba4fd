"""More pair potentials: learned ones, those of models of liquids, functions of one's own, and surfaces that depend on
the temperature."""

from ._potential import (
    DoubleExponential as DoubleExponential,
    FunctionPair as FunctionPair,
    GaussianCore as GaussianCore,
    GeneralizedMorse as GeneralizedMorse,
    InversePower as InversePower,
    NeuralPair as NeuralPair,
    TemperatureDependent as TemperatureDependent,
    Yukawa as Yukawa,
    at_temperature as at_temperature,
)
