"""Arrays from NumPy archives that somebody else wrote: numbers, or refused."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_MOST = 2**30
"""Bytes that the arrays of an archive may take: far more than any network here has."""
_DAMAGE = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_archive(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """These arrays of an `.npz` file, in double precision.

    **Errors:** `ValueError` for a file that is no archive or damaged, of arrays that are missing, of other than finite
    numbers, or larger together than 1 GB; `FileNotFoundError`.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = {f"{name}.npy" for name in names}
            size = sum(part.file_size for part in archive.infolist() if part.filename in wanted)
            if size > _MOST:
                raise OSError(f"arrays of {size} bytes, at most {_MOST} are read")
        with np.load(path, allow_pickle=False) as archive:
            there = archive.files
            arrays = {name: archive[name] for name in names if name in there}
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"{path} is no NumPy archive, or a damaged one ({error}); wanted an `.npz` file.") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {_listed(missing)}; it has {_listed(there)}. Wanted an archive of weights.")
    for name, x in arrays.items():
        if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x) or not np.all(np.isfinite(x)):
            raise ValueError(f"`{name}` in {path} has other than finite real numbers; wanted weights.")
    return {name: np.asarray(x, np.float64) for name, x in arrays.items()}


def _listed(names):
    shown = ", ".join(f"`{name}`" for name in list(names)[:8])
    return shown + (" …" if len(names) > 8 else "") if shown else "nothing"
