"""What the cards counted while a rank on each host, which has all cards of its host, swept all_reduce: pure, from two
probes.

Proves by the driver's own count that traffic was on EFA, that every card had its share of it, and that none was in
trouble. Where a host has more ranks, each has cards of its own, and how they share depends on who talks to whom.
"""

from typing import List, Tuple


def compare(before: List[dict], after: List[dict]) -> Tuple[dict, List[str], List[str]]:
    """What each card of each host counted in between, problems and notes."""
    problems, notes, counted = [], [], {}
    for was, now in zip(before, after):
        name = was["host"]
        cards = {card: growth(was["devices"][card], facts) for card, facts in now["devices"].items() if card in was["devices"]}
        counted[name] = cards
        sent = [card.get("tx_bytes", 0) for card in cards.values()]
        if not sum(sent):
            problems.append(f"{name}: no card sent anything: traffic was not on EFA")
        elif min(sent) * 100 < max(sent) * LEAST_SHARE_PERCENT:
            each = ", ".join(f"{card} {growth['tx_bytes']:,}" for card, growth in cards.items())
            problems.append(f"{name}: the cards did not share the traffic evenly, in bytes: {each}")
        for card, growths in cards.items():
            notes += [f"{name}: {card}: {key} {growths[key]:,}" for key in TROUBLE if growths.get(key)]
    return {"hosts": counted}, problems, notes


def growth(before: dict, after: dict) -> dict:
    """By how much each counter has grown."""
    counters = [key for key in after if key in before and after[key].isdigit() and before[key].isdigit()]
    return {key: int(after[key]) - int(before[key]) for key in counters}


# The rank gives its cards even shares; protocols have packets of their own beside them.
LEAST_SHARE_PERCENT = 80
TROUBLE = (
    "rx_drops",
    "rdma_read_wr_err",
    "rdma_write_wr_err",
    "retrans_timeout_events",
    "unresponsive_remote_events",
    "impaired_remote_conn_events",
)
