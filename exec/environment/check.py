"""Tells whether this interpreter has what a requirements file names. Exit 0: it has; 1: it has not, and
one line says what is missing.
"""

import re
import sys
from importlib import metadata

try:
    from packaging.requirements import Requirement
except ImportError:
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ImportError:
        Requirement = None


def release(text):
    match = re.match(r"\s*v?(\d+(?:\.\d+)*)\s*$", text)
    if not match:
        raise ValueError(text)
    numbers = [int(n) for n in match.group(1).split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return numbers


def compare(have, wanted):
    """Whether a version fits, for plain releases: all that can be told without packaging."""
    for part in filter(None, (p.strip() for p in wanted.split(","))):
        op, version = re.match(r"(===|==|!=|>=|<=|~=|<|>)\s*(\S+)$", part).groups()
        if op == "~=":
            prefix = version.split(".")[:-1]
            if release(have) < release(version) or have.split(".")[: len(prefix)] != prefix:
                return False
            continue
        a, b = release(have), release(version)
        fits = {"==": a == b, "===": a == b, "!=": a != b, ">=": a >= b, "<=": a <= b, "<": a < b, ">": a > b}
        if not fits[op]:
            return False
    return True


def missing(line):
    """Says what is missing for one line; None: nothing."""
    if Requirement is not None:
        wanted = Requirement(line)
        if wanted.url or wanted.extras:
            return "%s can only be installed" % line
        if wanted.marker is not None and not wanted.marker.evaluate():
            return None
        name, fits = wanted.name, lambda v: wanted.specifier.contains(v, prereleases=True)
    else:
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*([^;@\[]*)$", line)
        if not match:
            return "%s can only be installed" % line
        name, fits = match.group(1), lambda v: compare(v, match.group(2))
    try:
        have = metadata.version(name)
    except metadata.PackageNotFoundError:
        return "%s is not installed" % name
    return None if fits(have) else "%s is there as %s, expected %s" % (name, have, line)


with open(sys.argv[1], encoding="utf-8") as f:
    text = f.read().replace("\\\n", " ")
for line in text.splitlines():
    line = re.sub(r"(^|\s)#.*$", "", line).strip()
    if not line:
        continue
    try:
        problem = "%s can only be installed" % line if line.startswith("-") else missing(line)
    except Exception as err:
        problem = "%s: %s" % (line, err)
    if problem:
        print(problem)
        sys.exit(1)
