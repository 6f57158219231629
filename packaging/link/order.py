#!/usr/bin/env python3
"""Writes order.ld: which functions a release build puts side by side.

A login runs through some 350 functions, once. Where they are strewn over the whole program, each brings a page of its own that the
processor has to look up; side by side they share pages. What matters is only speed: names that are not there any more are ignored.

To do it again, on a release build at PROGRAM that serves one tenant, with valgrind and pgbench; for the logins, and then likewise
for each kind of query ("-S -M simple", "-S -M extended", "-S -M prepared", both engines):

    valgrind --tool=callgrind --dump-instr=yes --callgrind-out-file=few.out PROGRAM serve --config FILE     (beside it)
    pgbench -n -S -C -c 1 -t 20 ...                                                                         (then end it)
    ... and once more with --callgrind-out-file=many.out and -t 120

    packaging/link/order.py PROGRAM few.out:many.out:100 [few2.out:many2.out:...] > packaging/link/order.ld
"""

import bisect
import collections
import re
import subprocess
import sys

HEADER = """/*
 * Functions that every login or query goes through, side by side. Written by order.py, which see.
 * A star stands for what the compiler puts behind a name; so one line may be several functions, and those lines come last.
 */
SECTIONS
{
    .text.hot :
    {
"""
FOOTER = """    }
}
INSERT BEFORE .text;
"""


def counts(path):
    """Instructions by address in each object, as callgrind wrote them down."""
    found, names, obj, address, is_call = collections.Counter(), {}, None, 0, False
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if named := re.match(r"c?ob=\((\d+)\)(?: (.*))?$", line):
                if named[2]:
                    names[named[1]] = named[2]
                if line.startswith("ob"):
                    obj = names[named[1]]
            elif line.startswith("calls="):
                is_call = True
            elif cost := re.match(r"(0x[0-9a-f]+|[+-]\d+|\*) \S+(?: (\d+))?$", line):
                at = cost[1]
                address = int(at, 16) if at.startswith("0x") else address + (0 if at == "*" else int(at))
                if cost[2] and not is_call:
                    found[obj, address] += int(cost[2])
                is_call = False
    return found


def symbols(program):
    """The functions of a program by address, and how many there are of each name."""
    listed = subprocess.run(["nm", "--defined-only", program], capture_output=True, text=True, check=True).stdout
    parts = [line.split() for line in listed.splitlines()]
    found = sorted((int(part[0], 16), part[2]) for part in parts if len(part) == 3 and part[1] in "tTwW")
    return found, collections.Counter(pattern(name) for _, name in found)


def pattern(name):
    """A name without what changes from build to build, as linker scripts write it."""
    name = re.sub(r"17h[0-9a-f]{16}E", "17h*E", name)
    name = re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)
    name = re.sub(r"\.llvm\.\d+$", "*", name)
    return name.replace("$", "?")


def main():
    program, profiles = sys.argv[1], [argument.split(":") for argument in sys.argv[2:]]
    found, of_name = symbols(program)
    addresses = [address for address, _ in found]
    hot = collections.Counter()
    for few, many, times in profiles:
        before = counts(few)
        seen = set()
        for (obj, address), count in counts(many).items():
            if obj.rsplit("/")[-1] == program.rsplit("/")[-1] and count - before[obj, address] >= int(times) / 2:
                seen.add(pattern(found[bisect.bisect_right(addresses, address) - 1][1]))
        hot.update(seen)
    print(HEADER, end="")
    # What all of them run through first; in each of these by name, which keeps modules together.
    for name in sorted(hot, key=lambda name: (of_name[name] > 4, -hot[name], name)):
        print(f"        *(.text.{name})")
    print(FOOTER, end="")


main()
