"""What is set right before anything runs."""

import subprocess
import sys


def test_there_may_be_a_file_for_each_of_many_connections() -> None:
    code = (
        "import resource; from proxy.service.open_files import allow_many_files\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "allow_many_files()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65536), hard))\n"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout == "True\n"
