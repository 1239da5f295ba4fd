from ._adjoint import ReversibleAdjoint as ReversibleAdjoint
