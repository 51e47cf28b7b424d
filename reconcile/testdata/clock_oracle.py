"""Tells when cron expressions fire around each change of a zone's clocks, without any of Attune's code.

Reads one JSON object from stdin: zones, from and to (years), and expressions, each with the sets of its
fields. Prints one JSON object a zone: for each change, a window around it and what fires in it, as
seconds since 1970. The data is what PYTHONTZPATH names.
"""
import datetime
import json
import sys
import zoneinfo

UTC = datetime.timezone.utc
MINUTE = datetime.timedelta(minutes=1)
DAY = datetime.timedelta(days=1)
WINDOW = datetime.timedelta(hours=30)


def offset(at, zone):
    return at.astimezone(zone).utcoffset()


def changes(zone, begin, end):
    """The first instants of a new offset. Zones that change twice within a day are none of these years."""
    at = begin
    while at < end:
        if offset(at, zone) != offset(at + DAY, zone):
            low, high = at, at + DAY
            while high - low > datetime.timedelta(seconds=1):
                middle = low + (high - low) / 2
                middle = middle.replace(microsecond=0)
                if offset(middle, zone) == offset(at, zone):
                    low = middle
                else:
                    high = middle
            yield high
        at += DAY


def matches(e, clock):
    if clock.minute not in e["minute"] or clock.hour not in e["hour"]:
        return False
    if clock.month not in e["month"]:
        return False
    return clock.day in e["dom"] and clock.isoweekday() % 7 in e["dow"]


def every_hour(e, zone, begin, end):
    """What is about the minutes that pass: each minute at which the clock shows one of them."""
    at = begin
    while at < end:
        if matches(e, at.astimezone(zone)):
            yield at
        at += MINUTE


def time_of_day(e, zone, begin, end, change):
    """What is about a time of day: the first instant at which the clock shows it, or has passed it."""
    clock = (begin.astimezone(zone) - 2 * DAY).replace(tzinfo=None)
    last = (end.astimezone(zone) + 2 * DAY).replace(tzinfo=None)
    fires = set()
    while clock < last:
        if matches(e, clock):
            at = clock.replace(tzinfo=zone, fold=0).astimezone(UTC)
            if at.astimezone(zone).replace(tzinfo=None) != clock:
                at = change
            if begin <= at < end:
                fires.add(at)
        clock += MINUTE
    return sorted(fires)


def main():
    asked = json.load(sys.stdin)
    begin = datetime.datetime(asked["from"], 1, 1, tzinfo=UTC)
    end = datetime.datetime(asked["to"], 1, 1, tzinfo=UTC)
    expressions = asked["expressions"]
    for e in expressions:
        for field in ("minute", "hour", "dom", "month", "dow"):
            e[field] = frozenset(e[field])
    for name in asked["zones"]:
        zone = zoneinfo.ZoneInfo(name)
        windows = []
        for change in changes(zone, begin, end):
            lo, hi = change - WINDOW, change + WINDOW
            lo = lo.replace(second=0, microsecond=0)
            fires = {}
            for e in expressions:
                if len(e["hour"]) == 24:
                    found = every_hour(e, zone, lo, hi)
                else:
                    found = time_of_day(e, zone, lo, hi, change)
                fires[e["expression"]] = [int(at.timestamp()) for at in found]
            windows.append({"from": int(lo.timestamp()), "to": int(hi.timestamp()), "fires": fires})
        print(json.dumps({"zone": name, "windows": windows}))


main()
