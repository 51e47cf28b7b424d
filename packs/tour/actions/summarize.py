#!/usr/bin/env python3
import json
import sys

parameters = json.load(sys.stdin)
percent = round(100 * parameters["load"] / parameters["cores"])
verdict = "idle" if percent < 20 else "fine" if percent < 80 else "busy"
json.dump({"percent": percent, "verdict": verdict}, sys.stdout)
