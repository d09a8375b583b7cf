#!/usr/bin/env python3
"""Prints table.txt: where Python's zoneinfo has the 4 hour windows of two years begin, counted from each midnight.

A line is a run of days with windows of the same hours: zone, first day, number of days, the first midnight in UTC,
and the hours of the windows of each of the days.
"""
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

STEP = timedelta(hours=4)


def midnight(day, zone):
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(timezone.utc)


for zone in ("America/New_York", "Europe/Berlin"):
    runs = []
    day = date(2025, 1, 1)
    while day < date(2027, 1, 1):
        start, end = midnight(day, zone), midnight(day + timedelta(days=1), zone)
        hours = []
        while start < end:
            step = min(STEP, end - start)
            hours.append(int(step / timedelta(hours=1)))
            start += step
        if runs and runs[-1][3] == hours:
            runs[-1][1] += 1
        else:
            runs.append([day, 1, midnight(day, zone), hours])
        day += timedelta(days=1)
    for first, days, utc, hours in runs:
        print(zone, first, days, utc.strftime("%Y-%m-%dT%H:%MZ"), ",".join(map(str, hours)))
