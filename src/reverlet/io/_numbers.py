"""Numbers in texts, strictly: `float` takes 1_000, digits of other scripts, and nan."""

from collections.abc import Callable, Sequence

import numpy as np

_CHARACTERS = frozenset("0123456789+-.eE ")
_MOST = 3e38
"""What single precision holds."""


def numbers(words: Sequence[str], place: Callable[[int], str]) -> np.ndarray:
    """Finite numbers; else a `ValueError` that says where, by `place(k)` of the first word that is none."""
    if _CHARACTERS.issuperset(" ".join(words)):  # all at once, since files are long
        try:
            values = np.array([float(w) for w in words])
        except ValueError:
            pass
        else:
            if np.all(abs(values) < _MOST):
                return values
    k = next(k for k, word in enumerate(words) if not _is_number(word))
    raise ValueError(f"{place(k)} has {words[k][:40]!r} in the place of a finite number.")


def whole_numbers(words: Sequence[str], place: Callable[[int], str]) -> np.ndarray:
    """The same for integers that fit 32 bits."""
    values = numbers(words, place)
    bad = np.flatnonzero((values != np.round(values)) | (np.abs(values) >= 2**31))
    if len(bad) > 0:
        raise ValueError(f"{place(bad[0])} has {words[bad[0]][:40]!r} in the place of a whole number.")
    return values.astype(int)


def _is_number(word):
    if not _CHARACTERS.issuperset(word):
        return False
    try:
        return abs(float(word)) < _MOST
    except ValueError:
        return False
