#!/usr/bin/env python3
"""usage: chains.py [--check] INCLUDE FOLDER HEADER...

Writes translation units to FOLDER that together show that each HEADER, a path relative to INCLUDE, compiles alone, in a third as many
compilations as there are headers. A unit includes a chain of headers, each of which includes the one before it. What stands before a
header in its unit it therefore includes itself, so that it sees no name that it would not see alone.

With --check nothing is written: it fails unless FOLDER holds just these units.
"""

import pathlib
import re
import sys


def included_always(text):
    """Headers that the text includes whatever is defined."""
    found = []
    conditions = 0
    for directive, name in re.findall(r'^[ \t]*#[ \t]*(if|endif|include)\w*[ \t]*(?:[<"]([^>"]+))?', text, re.MULTILINE):
        if directive == "include":
            if conditions == 0:
                found.append(name)
        else:
            conditions += 1 if directive == "if" else -1
    return found


def closures(include, headers):
    """For each header all that it includes, directly or not."""
    known = {}

    def closure(header):
        if header not in known:
            known[header] = set()
            path = include / header
            for name in included_always(path.read_text()) if path.is_file() else ():
                known[header] |= {name} | closure(name)
        return known[header]

    return {header: closure(header) for header in headers}


def fewest_chains(below):
    """Splits the keys of `below` into as few lists as there can be, in which each is below the next: Kuhn's matching of each header
    with the one that follows it."""
    before = {}

    def follow(header, seen):
        for candidate in below:
            if header in below[candidate] and candidate not in seen:
                seen.add(candidate)
                if candidate not in before or follow(before[candidate], seen):
                    before[candidate] = header
                    return True
        return False

    for header in below:
        follow(header, set())
    chains = []
    for last in sorted(set(below) - set(before.values())):
        chain = [last]
        while chain[0] in before:
            chain.insert(0, before[chain[0]])
        chains.append(chain)
    return chains


def main(arguments):
    check = arguments[0] == "--check"
    include, folder, *headers = arguments[1:] if check else arguments
    folder = pathlib.Path(folder)
    units = {}
    for chain in fewest_chains(closures(pathlib.Path(include), sorted(headers))):
        name = re.sub(r"\W", "_", chain[-1].removesuffix(".hpp")) + ".cpp"
        units[folder / name] = "".join(f"#include <{header}>\n" for header in chain)
    there = {path: path.read_text() for path in folder.glob("*.cpp")}
    if check:
        if there != units:
            sys.exit("headers include others than when the build was configured; configure it again")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in there.keys() - units.keys():
        path.unlink()
    for path, text in units.items():
        if there.get(path) != text:
            path.write_text(text)


main(sys.argv[1:])
