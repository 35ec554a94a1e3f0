from typing import Any

import numpy as np
from numpy.typing import NDArray

# Empties the sockets from `begin` on, without the interpreter lock. Gives back: sockets visited; slots left to Python;
# bytes and packets of the records laid; errors of sockets; 1 when the last socket may hold more. Raises ValueError
# when `arrays` do not fit each other.
def drain(arrays: tuple[NDArray[Any], ...], begin: int, now: float, /) -> tuple[int, int, int, int, int, int]: ...

# An appender (`siprec.media.writer`), without the interpreter lock. Raises ValueError when the pieces do not lie in
# `data`, or there are not as many.
def append(
    descriptors: NDArray[np.int32], data: memoryview | bytes, cuts: NDArray[np.int64], first: int, last: int, /
) -> tuple[int, int, int]: ...
