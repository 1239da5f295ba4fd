"""A process that reads files, and ends when it takes too long or too much: libraries in C believe damaged ones."""

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_MOST_SECONDS = 60.0
"""On the clock, where the processor's time is not limited, or does not pass."""


class Server:
    """Starts with the first request, and again where a file has ended it. A context manager.

    **Arguments:** `program`, beside this file, which answers lines of JSON by lines of JSON and `bytes` behind them.
    """

    def __init__(self, program: str):
        self._program = program
        self._process: Any = None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error) -> None:
        self._end()

    def ask(self, request: dict[str, Any]) -> tuple[Any, bytes]:
        """The answer and what is behind it; a `ValueError` where the program says so, or is gone."""
        if self._process is None:
            self._start()
        process: Any = self._process
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = self._receive(lambda: self._process.stdout.readline())
            answer = json.loads(line) if line.endswith(b"\n") else self._refuse()
            if "error" in answer:
                raise ValueError(answer["error"])
            size = answer.get("bytes", 0)
            data = self._receive(lambda: self._process.stdout.read(size)) if size else b""
        except OSError:
            self._refuse()
        return answer, data if len(data) == size else self._refuse()

    def _start(self):
        program, pipe = str(Path(__file__).with_name(self._program)), subprocess.PIPE
        # what a library says of a damaged file is not for the user
        self._process = subprocess.Popen([sys.executable, program], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        if not self._receive(lambda: self._process.stdout.readline()):
            self._end()
            raise ImportError(f"The process that reads such files, `{self._program}`, does not start")

    def _receive(self, read):
        timer = threading.Timer(_MOST_SECONDS, self._process.kill)
        timer.start()
        try:
            return read()
        finally:
            timer.cancel()

    def _refuse(self) -> Any:
        self._end()
        raise ValueError("Its reader does not come back within 2 s of work and 1 GB, or crashes: it is damaged.")

    def _end(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
            self._process = None
