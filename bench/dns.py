#!/usr/bin/env python3
"""Cached DNS answers per CPU second: Sekisho against unbound, in one run, on loopback.

Both have the same block list of generated names and forward to one small responder started here; Sekisho has 500 rules
beside it and records every question. The names asked are cached by a first round. CPU seconds are user plus system of the
server's process, read before and after each round; the ratio is the figure to quote, for machines are noisy.

  bench/dns.py target/release/sekisho [--names 1000000] [--rules 500] [--rounds 3] [--queries 200000]

Needs Debian's packages dnsperf and unbound. Everything is bounded and stops by itself.
"""
import argparse, json, os, pathlib, re, socket, statistics, struct, subprocess, tempfile, threading, time

ASKED = 1000  # distinct names asked, all of them cached


def responder():
    """Answers every A question with 192.0.2.1, TTL one hour."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def loop():
        while True:
            query, client = server.recvfrom(4096)
            end = query.index(b"\0", 12) + 5
            head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
            answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 3600, 4) + bytes([192, 0, 2, 1])
            server.sendto(head + query[12:end] + answer, client)

    threading.Thread(target=loop, daemon=True).start()
    return server.getsockname()[1]


def cpu_seconds(pid):
    """User and system time of a process and all its threads; children are not counted."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def dnsperf(port, names, queries, clients=8):
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", names, "-Q", "1000000", "-c", str(clients), "-q", "200"]
    text = subprocess.run(command + ["-n", str(max(1, queries // ASKED))], capture_output=True, text=True, timeout=300).stdout
    done = int(re.search(r"Queries completed:\s+(\d+)", text)[1])
    lost = int(re.search(r"Queries lost:\s+(\d+)", text)[1])
    return done, lost


def start_sekisho(program, folder, upstream, blocked, count):
    config, ready = folder / "sekisho.toml", folder / "ready.json"
    config.write_text(
        f'[dns]\nupstreams = ["127.0.0.1:{upstream}"]\nclient_queries_per_second_max = 0\n'
        f'[[knowledge.lists]]\nname = "bench"\npath = "{blocked}"\nformat = "plain"\ncategory = "Malware"\n'
    )
    rules = [
        f'[[rule]]\nname = "rule {n}"\ngate = "dns"\naction = "block"\nwhen = \'any(dns.domains[*] == "rule{n}.example")\'\n'
        for n in range(count)
    ]
    (folder / "policy.toml").write_text("".join(rules))
    command = [program, "--data", str(folder / "data")]
    child = subprocess.Popen(command + ["up", "--config", config, "--ephemeral-ports", "--ready-file", ready],
                             stdout=subprocess.DEVNULL, stderr=open(folder / "log", "w"))
    for _ in range(600):
        if ready.exists():
            break
        if child.poll() is not None:
            raise SystemExit(f"sekisho ended: {(folder / 'log').read_text()}")
        time.sleep(0.1)
    subprocess.run(command + ["apply", folder / "policy.toml"], check=True, stdout=subprocess.DEVNULL)
    rows = json.loads(ready.read_text())["listeners"]
    port = next(row["address"] for row in rows if row["gate"] == "dns" and row["protocol"] == "udp").rsplit(":", 1)[1]
    return child, int(port)


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_unbound(folder, upstream, names):
    port, config = free_port(), folder / "unbound.conf"
    zones = "".join(f'local-zone: "{name}" always_nxdomain\n' for name in names)
    config.write_text(
        f'server:\n interface: 127.0.0.1\n port: {port}\n do-daemonize: no\n username: ""\n chroot: ""\n pidfile: ""\n'
        ' use-syslog: no\n module-config: "iterator"\n do-not-query-localhost: no\n num-threads: 2\n so-reuseport: yes\n'
        f' msg-cache-size: 64m\n rrset-cache-size: 128m\n{zones}'
        f'forward-zone:\n name: "."\n forward-addr: 127.0.0.1@{upstream}\n'
    )
    child = subprocess.Popen(["unbound", "-d", "-c", config], stdout=subprocess.DEVNULL, stderr=open(folder / "unbound.log", "w"))
    return child, port


def wait_until_answering(port, names):
    for _ in range(120):
        try:
            if dnsperf(port, names, ASKED, 1)[0] == ASKED:
                return
        except (TypeError, subprocess.TimeoutExpired):
            pass
        time.sleep(0.5)
    raise SystemExit(f"nothing answers on port {port}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--rules", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=200_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        blocked = [f"host{n:07}.blocked{n % 997}.example" for n in range(wanted.names)]
        (folder / "blocked.txt").write_text("\n".join(blocked) + "\n")
        asked = folder / "asked.txt"
        asked.write_text("".join(f"www{n}.site{n}.test A\n" for n in range(ASKED)))
        upstream = responder()
        servers = {"sekisho": start_sekisho(wanted.program, folder, upstream, folder / "blocked.txt", wanted.rules),
                   "unbound": start_unbound(folder, upstream, blocked)}
        try:
            for _, port in servers.values():
                wait_until_answering(port, asked)
            rates = {name: [] for name in servers}
            for _ in range(wanted.rounds):
                for name, (child, port) in servers.items():
                    before = cpu_seconds(child.pid)
                    done, lost = dnsperf(port, asked, wanted.queries)
                    spent = cpu_seconds(child.pid) - before
                    rates[name].append(done / max(spent, 0.01))
                    print(f"{name:8} {done} answered, {lost} lost, {spent:.2f} CPU s, {rates[name][-1]:.0f} answers per CPU s")
            for name, (child, _) in servers.items():
                print(f"{name:8} median {statistics.median(rates[name]):.0f} per CPU s, RSS {resident_mib(child.pid):.0f} MiB")
            ratios = [a / b for a, b in zip(rates["sekisho"], rates["unbound"])]
            print(f"ratio sekisho/unbound: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        finally:
            for child, _ in servers.values():
                child.terminate()
                child.wait()


main()
