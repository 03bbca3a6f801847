"""A child process that runs one function after the other, each with a time limit.

A function that takes too long ends with its process, whatever it does: compiling, or waiting for a device.
The next function gets a new process. Meanwhile modules, device and data stay in memory between functions.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Worker:
    """Runs functions in a child process; a context manager that ends the process."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None

    def run(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """Return `function(*arguments)`; function, arguments and result must be picklable.

        Raises:
            TimeoutError: it took more than `seconds`, with the start of the process.
            ChildProcessError: it raised an error, or the process died.
        """
        if self._process is None:
            self._start()
        self._pipe.send((function, arguments))
        if not self._pipe.poll(max(0.0, seconds)):
            self.end()
            raise TimeoutError(f"not finished in {seconds:.0f} s")
        try:
            error, result = self._pipe.recv()
        except EOFError:
            self.end()
            raise ChildProcessError("the process died") from None
        if error is not None:
            raise ChildProcessError(error)
        return result

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads and devices
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=serve, args=(far,))
        self._process.start()
        far.close()  # so that the end of the child ends the pipe

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def serve(pipe: Connection) -> None:
    """Run the functions that arrive, until the pipe is closed."""
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((None, function(*arguments)))
        except Exception as error:
            text = next(iter(str(error).splitlines()), "")
            pipe.send((f"{type(error).__name__}: {text}".removesuffix(": "), None))
