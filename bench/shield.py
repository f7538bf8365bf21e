#!/usr/bin/env python3
"""Where a flood is dropped, and what it costs: the packet path of the shield against nftables, in one run.

The kernel makes the frames (64 bytes, 1,024 flows) and hands them to the program that is attached to a veth, in a network
namespace of its own; in the other rows the program lets them pass and the network stack drops them, or does not. Every row
counts that each frame was where it should be. Making the frames is inside every row, so that the true ratios are larger.
A veth is no network card: only ratios within one run say anything.

    cargo build --release -p shield --example drop_rate
    sudo bench/shield.py target/release/examples/drop_rate [frames]
"""
import json
import os
import statistics
import subprocess
import sys

ROUNDS = 5
SPACE = f"skb{os.getpid()}"
ROWS = [
    ("packet path, one rule", "drop", None),
    ("nftables, ingress of the interface", "pass", """
table netdev t { chain c { type filter hook ingress device "d0" priority 0; udp dport 4000 counter drop; }; }"""),
    ("nftables, raw prerouting", "pass", """
table ip t { chain c { type filter hook prerouting priority raw; udp dport 4000 counter drop; }; }"""),
    ("nftables, input, no connection tracking", "pass", """
table ip t { chain c { type filter hook input priority 0; udp dport 4000 counter drop; }; }"""),
    ("nftables, input, connection tracking", "pass", """
table ip t { chain c { type filter hook input priority 0; ct state invalid drop; udp dport 4000 counter drop; }; }"""),
]


def run(*command, text=None, check=True):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def inside(*command, **more):
    return run("ip", "netns", "exec", SPACE, *command, **more)


def dropped_by_nft():
    rules = json.loads(inside("nft", "-j", "list", "ruleset"))["nftables"]
    counters = [part["counter"]["packets"] for rule in rules if "rule" in rule for part in rule["rule"]["expr"] if "counter" in part]
    return sum(counters)


def row(program, mac, verdict, rules, frames):
    inside("nft", "flush", "ruleset")
    if rules:
        inside("nft", "-f", "-", text=rules)
    told = json.loads(inside(program, "d0", mac, verdict, str(frames)))
    where = told["dropped"] if verdict == "drop" else dropped_by_nft()
    sent = told["dropped"] + told["passed"]
    if where < sent * 0.999:
        sys.exit(f"{sent} frames were made and {where} were dropped where they should be")
    return sent / told["seconds"], told["mode"]


def main():
    if len(sys.argv) < 2 or os.geteuid() != 0:
        sys.exit(__doc__)
    program, frames = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000
    run("ip", "netns", "add", SPACE)
    try:
        run("ip", "-n", SPACE, "link", "add", "d0", "type", "veth", "peer", "name", "p0")
        for link in ("d0", "p0", "lo"):
            run("ip", "-n", SPACE, "link", "set", link, "up")
        run("ip", "-n", SPACE, "address", "add", "203.0.113.1/24", "dev", "d0")
        mac = json.loads(run("ip", "-j", "-n", SPACE, "link", "show", "d0"))[0]["address"]
        rates = {name: [] for name, _, _ in ROWS}
        for _ in range(ROUNDS):
            for name, verdict, rules in ROWS:
                rate, mode = row(program, mac, verdict, rules, frames)
                rates[name].append(rate)
        best = statistics.median(rates[ROWS[0][0]])
        print(f"{'where':42}{'Mpps':>8}{'packet path is':>16}   ({mode}, median of {ROUNDS})")
        for name, _, _ in ROWS:
            rate = statistics.median(rates[name])
            print(f"{name:42}{rate / 1e6:8.2f}{best / rate:15.2f}x")
    finally:
        run("ip", "netns", "del", SPACE, check=False)


if __name__ == "__main__":
    main()
