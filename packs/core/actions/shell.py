"""core.shell: becomes bash with a command line that no event can write any part of."""

import os
import re
import sys
import tempfile

import attune

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# What makes bash or the programs that it starts run something else. ATTUNE_* says things that Attune says.
REFUSED = re.compile(
    r"(PATH|IFS|ENV|BASH_.*|BASHOPTS|SHELLOPTS|PS[0-4]|PROMPT_COMMAND|CDPATH|GLOBIGNORE|LD_.*|DYLD_.*"
    r"|PYTHON.*|PERL.*|RUBY.*|NODE_.*|GIT_.*|SHELL|EDITOR|VISUAL|PAGER|ATTUNE_.*)\Z"
)


def text(value):
    """How a value of JSON stands in an argument or a variable."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def fail(problem):
    print("ERROR: " + problem, file=sys.stderr)
    sys.exit(1)


def main():
    params = attune.parameters()
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    for name, value in (params.get("env") or {}).items():
        if not NAME.match(name):
            fail(f'env: "{name}" is no name of a variable')
        if REFUSED.match(name):
            fail(f"env: {name} cannot be set, as it changes how programs start; write it into cmd")
        env[name] = text(value)
    args = [text(a) for a in params.get("args") or []]
    stdin = (params.get("stdin") or "").encode()
    for value in [*args, *env.values()]:
        if "\0" in value:
            fail("args and env cannot hold NUL")
    if params.get("cwd"):
        try:
            os.chdir(params["cwd"])
        except OSError as err:
            fail(f"cwd: {err}")
    if stdin:
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            os.dup2(file.fileno(), 0)
    else:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
    try:
        os.execvpe("bash", ["bash", "-c", params["cmd"], "core.shell", *args], env)
    except OSError as err:
        fail(f"cannot start bash: {err.strerror}")


main()
