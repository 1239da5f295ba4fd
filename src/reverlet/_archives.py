"""Arrays from files that somebody else wrote: numbers, or refused. NumPy archives."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MOST_BYTES = 2**30
"""That a file, or the arrays in it, may take: far more than any network here has."""
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
            if size > MOST_BYTES:
                raise OSError(f"arrays of {size} bytes, at most {MOST_BYTES} are read")
        with np.load(path, allow_pickle=False) as archive:
            there = archive.files
            arrays = {name: archive[name] for name in names if name in there}
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"{path} is no NumPy archive, or a damaged one ({error}); wanted an `.npz` file.") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {listed(missing)}; it has {listed(there)}. Wanted an archive of weights.")
    return {name: as_weights(path, name, x) for name, x in arrays.items()}


def as_weights(path: str | Path, name: str, x: np.ndarray) -> np.ndarray:
    """An array of a file, in double precision.

    **Errors:** `ValueError` for other than finite real numbers.
    """
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x) or not np.all(np.isfinite(x)):
        raise ValueError(f"`{name}` in {path} has other than finite real numbers; wanted weights.")
    return np.asarray(x, np.float64)


def file_bytes(path: str | Path) -> bytes:
    """All of a file.

    **Errors:** `ValueError` for what is no file, or larger than 1 GB; `FileNotFoundError`.
    """
    path = Path(path)
    try:
        # of a pipe or a device the size is zero
        size = path.stat().st_size
        if not path.is_file() or size > MOST_BYTES:
            raise OSError(f"no file, or one of {size} bytes, where at most {MOST_BYTES} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: {error}") from error


def listed(names: Sequence[str]) -> str:
    """The first of many names, for a message."""
    shown = ", ".join(f"`{name[:60]}`" for name in list(names)[:8])
    return shown + (" …" if len(names) > 8 else "") if shown else "nothing"
