"""What check.sh asks a Prometheus for.

Owns: reading the dashboard and the rules' answers. Must never do: start or stop anything.

    ask.py ports N                       N free ports, below those that the system gives out itself
    ask.py value URL QUERY               the sum of an instant query's values; nothing: no sample
    ask.py alerts URL                    alerts that are pending or firing, one a line, with their words
    ask.py dashboard URL JSON WINDOW     every query of the dashboard; exits 1 if one has no sample
    ask.py names TEXT FILE…              metrics of ours that the files name and the scraped text lacks
"""

import json
import math
import random
import re
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

OURS = "imageworks_proxy_"
# What stands in these places in the dashboard, and is the browser's to fill in.
FILLED_IN = {"$instance": ".+", "$model": ".*"}


def get(url, path, **arguments):
    question = f"{url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
    try:
        with urllib.request.urlopen(question, timeout=20) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{question}: {error.read().decode(errors='replace')}") from error


def ports(count):
    found = []
    while len(found) < count:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    print(*found)


def value(url, query):
    result = get(url, "query", query=query)["result"]
    if result:
        print(f"{sum(float(sample['value'][1]) for sample in result):g}")


def alerts(url):
    found = get(url, "alerts")["alerts"]
    for alert in sorted(found, key=lambda alert: (alert["state"], alert["labels"]["alertname"])):
        words = " ".join(alert["annotations"].values())
        print(alert["state"], alert["labels"]["alertname"], words)


def samples(url, query, instant, now):
    """The samples that are numbers, newest last."""
    if instant:
        result = get(url, "query", query=query, time=now)["result"]
        found = [float(series["value"][1]) for series in result]
    else:
        result = get(url, "query_range", query=query, start=now - 60, end=now, step=5)["result"]
        found = [float(pair[1]) for series in result for pair in series["values"]]
    return [number for number in found if not math.isnan(number)], len(result)


def fill_in(query, window):
    for name, text in FILLED_IN.items():
        query = query.replace(name, text)
    query = query.replace("$__rate_interval", window).replace("$__range", "2m")
    if "$" in query:
        raise SystemExit(f"what is this variable? {query}")
    return query


def targets(dashboard):
    for panel in dashboard["panels"]:
        for inner in [panel, *panel.get("panels", [])]:
            for target in inner.get("targets", []):
                yield inner, target


def flaws(dashboard):
    """What a person would only see in the browser."""
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(ids) != len(set(ids)):
        yield "two panels have one id"
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"{panel['title']}: no description"
        if panel["type"] not in ("heatmap", "state-timeline") and "unit" not in panel["fieldConfig"]["defaults"]:
            yield f"{panel['title']}: no unit"
        for target in panel["targets"]:
            if not target.get("legendFormat"):
                yield f"{panel['title']}: a series without a name"
            if target["datasource"]["uid"] != "${datasource}":
                yield f"{panel['title']}: a data source of its own"


def dashboard(url, path, window):
    with open(path, encoding="utf-8") as file:
        board = json.load(file)
    bad = list(flaws(board))
    for flaw in bad:
        print(f"FLAW  {flaw}")
    now = time.time()
    print(f"{'samples':>7} {'series':>6} {'last':>12}  panel: series: query")
    for panel, target in targets(board):
        query = fill_in(target["expr"], window)
        found, series = samples(url, query, target.get("instant"), now)
        last = f"{found[-1]:.6g}" if found else "-"
        flat = " ".join(target["expr"].split())
        print(f"{len(found):>7} {series:>6} {last:>12}  {panel['title']}: {target['legendFormat']}: {flat}")
        if not found:
            bad.append(query)
    print(f"{sum(1 for _ in targets(board))} queries, {len(bad)} without a sample or with a flaw")
    sys.exit(1 if bad else 0)


def names(text, *paths):
    with open(text, encoding="utf-8") as file:
        known = set(re.findall(r"^# TYPE (\w+) ", file.read(), re.MULTILINE))
    missing = set()
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for name in re.findall(rf"\b{OURS}\w+(?!:)\b", file.read()):
                if name not in known and re.sub(r"_(bucket|sum|count)$", "", name) not in known:
                    missing.add(name)
    for name in sorted(missing):
        print(name)
    sys.exit(1 if missing else 0)


def main():
    commands = {"ports": lambda n: ports(int(n)), "value": value, "alerts": alerts, "dashboard": dashboard, "names": names}
    commands[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
