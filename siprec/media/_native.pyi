from array import array

import numpy as np
from numpy.typing import NDArray

# Empties the sockets from `begin` on, without the interpreter lock. `memory` is `struct memory`, and trusted. Gives
# back: sockets visited; slots left to Python; bytes and packets of the records laid; errors of sockets; the most
# datagrams that one socket gave; 1 when the last socket may hold more. Raises ValueError when `memory` is not as long.
def drain(memory: array[int], begin: int, now: float, /) -> tuple[int, int, int, int, int, int, int]: ...

# An appender (`siprec.media.writer`), without the interpreter lock. Raises ValueError when the pieces do not lie in
# `data`, or there are not as many.
def append(
    descriptors: NDArray[np.int32], data: memoryview | bytes, cuts: NDArray[np.int64], first: int, last: int, /
) -> tuple[int, int, int]: ...
