"""What is done to cotangents on their way back through a trajectory: for `ReversibleAdjoint(controls=...)`."""

from ._controls import (
    AbstractCotangentControl as AbstractCotangentControl,
    ClipNorm as ClipNorm,
    Damp as Damp,
    DropAfter as DropAfter,
    ResetEvery as ResetEvery,
)
