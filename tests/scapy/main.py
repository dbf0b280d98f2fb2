"""Speaks with tests/tests/scapy.rs over its pipes, in lines of JSON.

First line in: the configuration and the subjects wanted. Out: one line for each
case, then {"done": number}. After that, each line in is a pair of frames that
differ, and the line out says where, in Scapy's words.
"""

import difflib
import importlib
import json
import sys

from lab import Lab
from scapy.layers.l2 import Ether


def all_cases(lab, subjects):
    names = set()
    for subject in subjects:
        for case in importlib.import_module(subject).cases(lab):
            if case.name in names:
                raise ValueError(f"two cases are called {case.name!r}")
            names.add(case.name)
            yield {"subject": subject, "name": case.name, "steps": case.steps}


def difference(pair):
    """What Scapy makes of both, where it differs."""
    expected, found = (
        Ether(bytes.fromhex(pair[name])).show(dump=True).splitlines()
        for name in ("expected", "found")
    )
    lines = difflib.unified_diff(expected, found, "expected", "found", n=0, lineterm="")
    return [line for line in lines if not line.startswith("@@")]


def say(answer):
    print(json.dumps(answer), flush=True)


def main():
    told = json.loads(sys.stdin.readline())
    count = 0
    for case in all_cases(Lab(told), told["subjects"]):
        say(case)
        count += 1
    say({"done": count})
    for line in sys.stdin:
        say({"difference": difference(json.loads(line))})


main()
