"""Memory that a step frees is there for the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
if sys.argv[1] == "kept":
    from train.memory import keep_freed_memory
    keep_freed_memory()

def step():
    blocks = [torch.ones(1 << 24) for _ in range(3)]  # of 64 MiB

for _ in range(12):  # until the heap has its size
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="what is asked is asked of glibc")
def test_what_a_step_frees_is_not_faulted_in_again() -> None:
    assert faults("kept") < faults("returned") / 10
