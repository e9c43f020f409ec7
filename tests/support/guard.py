"""How long a test waits before it says that something hangs.

Never a measure of speed: a machine that is ten times slower than usual must not reach it.
"""

HANG_S = 300.0
