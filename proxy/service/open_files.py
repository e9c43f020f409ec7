"""How many files a process may have open: each connection is one, and systems begin with 1024."""

import resource
from typing import Final

FILES: Final = 65536


def allow_many_files() -> None:
    """As many as this process may have, up to FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
