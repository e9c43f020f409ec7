"""ik_llama.cpp's llama-server as far as its command line goes: takes its flags and no others, and
becomes $REAL_SERVER, the llama-server of our build, with what that one has of them."""

import os
import sys

# Flags of its own, and how many values each has: what they do cannot be had here.
OWN = {"-fmoe": 0, "-rtr": 0, "-amb": 1, "-mla": 1, "-ger": 0, "-ser": 1}
# Flags that both have. It listens on TCP alone, and has no --n-cpu-moe in many of its versions.
COMMON = {
    **{"-m": 1, "--host": 1, "--port": 1, "--alias": 1, "-c": 1, "-np": 1, "-t": 1, "-ngl": 1},
    **{"-ot": 1, "-fa": 1, "-ub": 1, "-b": 1, "-ctk": 1, "-ctv": 1},
}


def translated(given: list[str]) -> list[str]:
    passed: list[str] = []
    rest = iter(given)
    for flag in rest:
        if flag not in OWN and flag not in COMMON:
            sys.exit(f"error: unknown argument: {flag}")
        values = [next(rest) for _ in range((OWN | COMMON)[flag])]
        if flag in COMMON:
            passed += [flag, *values]
    return passed


if __name__ == "__main__":
    server = os.environ["REAL_SERVER"]
    os.execv(server, [server, *translated(sys.argv[1:]), "--no-webui"])
