"""Serves unpacked frames of XTC files to another process (`_xtc`), which may end it. A program, never imported.

`{"path": path}` is answered by `{"shape": …, "bytes": …}`, behind which the positions of all frames follow in single
precision.
"""

import json
import os
import sys


def main():
    from _hdf5_server import limits  # pyright: ignore[reportMissingImports]  # beside this program
    from mdtraj.formats import XTCTrajectoryFile

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the library prints to the standard output
    allow = limits()
    out.write(b"{}\n")
    out.flush()
    for line in sys.stdin:
        try:
            allow()
            with XTCTrajectoryFile(json.loads(line)["path"], "r") as file:
                positions = file.read()[0].astype("<f4")
            answer, data = {"shape": positions.shape, "bytes": positions.nbytes}, positions.tobytes()
        except Exception as error:
            answer, data = {"error": f"{type(error).__name__}: {error}"}, b""
        out.write(json.dumps(answer).encode() + b"\n" + data)
        out.flush()


if __name__ == "__main__":
    main()
