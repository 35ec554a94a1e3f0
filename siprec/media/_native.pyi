from typing import Any

from numpy.typing import NDArray

# Empties the sockets from `begin` on, without the interpreter lock. Gives back: sockets visited; slots left to Python;
# bytes and packets of the records laid; errors of sockets; 1 when the last socket may hold more. Raises ValueError
# when `arrays` do not fit each other.
def drain(arrays: tuple[NDArray[Any], ...], begin: int, now: float, /) -> tuple[int, int, int, int, int, int]: ...
