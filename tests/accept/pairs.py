"""Every card alone, between the first host and each other: by libfabric's fi_pingpong, which knows nothing of efarun,
and by efarun on that card in the same minute.

fi_pingpong runs as two ranks: the first host's waits for the other's, at an address and a port that efarun gives to
all ranks. So a card, a cable or a security group that is at fault is found without any of our code between.
"""

from typing import Dict, List, Tuple

from . import measure as perf
from .hosts import Hosts

Row = Dict[str, float]


def measure(hosts: Hosts, names: List[str], cards: List[str], effort: "perf.Effort") -> Tuple[dict, List[str], List[str]]:
    """Results by card, problems and notes. `names` are the hosts'."""
    results, problems = {}, []
    for card in cards:
        only = ["-x", f"FI_EFA_IFACE={card}"]
        raw = {}
        for number, name in enumerate(names[1:], start=1):
            settings = ["-x", f"ACCEPT_CLIENT={number}", "-x", f"ACCEPT_ROUNDS={effort.pair_rounds}"]
            done = hosts.run([*only, *settings], ["sh", "-c", PINGPONG], effort.pair_limit_s)
            raw[name] = parse(done.stdout)
            if done.code:
                problems.append(f"{card}: fi_pingpong between {names[0]} and {name}: {done.complaint()}")
            elif not raw[name]:
                problems.append(f"{card}: fi_pingpong between {names[0]} and {name} printed no table")
        ours, wrong = perf.run(hosts, "all_reduce", effort.pair_sizes, 1, only)
        problems += [f"{card}: {problem}" for problem in wrong]
        results[card] = {"fi_pingpong": raw, "efarun": ours}
    if not cards:
        problems.append("there is no card to measure")
    return {"cards": results}, problems, []


def parse(text: str) -> List[Row]:
    """The rows of fi_pingpong's table."""
    rows = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != len(COLUMNS) or not words[0][0].isdigit():
            continue
        try:
            mb_per_s, one_way_us = (float(words[COLUMNS.index(name)]) for name in ("MB/sec", "usec/xfer"))
            rows.append({"bytes": size(words[0]), "mb_per_s": mb_per_s, "one_way_us": one_way_us})
        except ValueError:
            continue
    return rows


def size(text: str) -> int:
    """`64`, `4k`, `1m` as bytes."""
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    unit = units.get(text[-1].lower())
    return int(text[:-1]) * unit if unit else int(text)


COLUMNS = ("bytes", "#sent", "#ack", "total", "time", "MB/sec", "usec/xfer", "Mxfers/sec")
# The client begins when the server listens, which nobody tells it.
PINGPONG = r"""
export PATH=/opt/amazon/efa/bin:$PATH
tool="fi_pingpong -p efa -e rdm -c -I $ACCEPT_ROUNDS"
case $RANK in
    0) exec $tool -B "$MASTER_PORT" ;;
    "$ACCEPT_CLIENT") ;;
    *) exit 0 ;;
esac
tries=0
until said=$($tool -P "$MASTER_PORT" "$MASTER_ADDR" 2>&1); do
    tries=$((tries + 1))
    [ $tries -lt 50 ] || { printf '%s\n' "$said" >&2; exit 1; }
    sleep 0.2
done
printf '%s\n' "$said"
"""
