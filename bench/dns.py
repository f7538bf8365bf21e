#!/usr/bin/env python3
"""Cached DNS answers per CPU second, and the time that an answer takes: Sekisho against unbound and dnsdist, in one run, on
loopback.

All have the same block list of generated names and forward to one small responder started here; Sekisho has rules beside
the list. Two comparisons, like for like:

  plain    the peers without a log, Sekisho with its policy and its record on, and once more with the record that a privacy
           setting reduces to counts (`counts_only`)
  logged   the peers with a log of queries (dnsdist) or of queries and replies (unbound) in a file, Sekisho as above

The names asked are cached by a first round. CPU seconds are user plus system of the server's process and all its threads,
from before a round until what the round left behind has been done too: a log that is sealed after a while is sealed within
the round's account. Rounds are interleaved; ratios within a round are what to quote, for machines are noisy.

  bench/dns.py target/release/sekisho [--names 1000000] [--rules 500] [--rounds 3] [--queries 200000] [--rate 0]

`--rate` bounds the queries per second; 0 asks as fast as 200 outstanding queries allow. Beyond what the store takes, events
are counted as lost and not written, which is shown: such a round flatters Sekisho.

Needs Debian's packages dnsperf, unbound and dnsdist. Everything is bounded and stops by itself.
"""
import argparse, json, os, pathlib, re, socket, statistics, struct, subprocess, tempfile, threading, time, urllib.request

ASKED = 1000  # distinct names asked, all of them cached
SEAL_SECONDS = 2  # events wait this long in the log before they are sealed
SETTLE_SECONDS = 5  # longer than a round's last events need to be sealed
PROBES = 3000  # single questions whose time is taken, while others are asked
PROBE_RATE = 10_000  # queries per second beside the probes


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


def dnsperf(port, names, queries, clients=8, rate=0):
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", names, "-Q", str(rate or 1_000_000), "-c", str(clients), "-q", "200"]
    text = subprocess.run(command + ["-n", str(max(1, queries // ASKED))], capture_output=True, text=True, timeout=300).stdout
    done = int(re.search(r"Queries completed:\s+(\d+)", text)[1])
    lost = int(re.search(r"Queries lost:\s+(\d+)", text)[1])
    return done, lost


def question(number, name):
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def probe(port, names):
    """Median and 99th percentile, in milliseconds, of the time of one answer while others are asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(2)
        load = threading.Thread(target=dnsperf, args=(port, names, PROBE_RATE * 4, 8, PROBE_RATE))
        load.start()
        time.sleep(0.5)
        times = []
        for number in range(PROBES):
            query = question(number, f"www{number % ASKED}.site{number % ASKED}.test")
            began = time.perf_counter()
            client.send(query)
            client.recv(4096)
            times.append((time.perf_counter() - began) * 1000)
        load.join()
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


class Sekisho:
    def __init__(self, program, folder, upstream, blocked, count, record):
        self.name = f"sekisho ({record})"
        folder = folder / record
        folder.mkdir()
        config, ready = folder / "sekisho.toml", folder / "ready.json"
        privacy = '[checkpoint]\nprivacy = [{ group = "", keep = "counts_only" }]\n' if record == "counts only" else ""
        config.write_text(
            f'[dns]\nupstreams = ["127.0.0.1:{upstream}"]\nclient_queries_per_second_max = 0\n{privacy}'
            f"[store]\nseal_after_seconds = {SEAL_SECONDS}\n"
            f'[[knowledge.lists]]\nname = "bench"\npath = "{blocked}"\nformat = "plain"\ncategory = "Malware"\n'
        )
        rules = [
            f'[[rule]]\nname = "rule {n}"\ngate = "dns"\naction = "block"\nwhen = \'any(dns.domains[*] == "rule{n}.example")\'\n'
            for n in range(count)
        ]
        (folder / "policy.toml").write_text("".join(rules))
        command = [program, "--data", str(folder / "data")]
        self.child = subprocess.Popen(command + ["up", "--config", config, "--ephemeral-ports", "--ready-file", ready],
                                      stdout=subprocess.DEVNULL, stderr=open(folder / "log", "w"))
        for _ in range(600):
            if ready.exists():
                break
            if self.child.poll() is not None:
                raise SystemExit(f"sekisho ended: {(folder / 'log').read_text()}")
            time.sleep(0.1)
        if rules:
            subprocess.run(command + ["apply", folder / "policy.toml"], check=True, stdout=subprocess.DEVNULL)
        rows = json.loads(ready.read_text())["listeners"]
        address = {(row["gate"], row["protocol"]): row["address"] for row in rows}
        self.port = int(address["dns", "udp"].rsplit(":", 1)[1])
        self.admin = next((at for (gate, _), at in address.items() if gate == "admin"), None)

    def settle(self):
        time.sleep(SETTLE_SECONDS)

    def lost_events(self):
        if not self.admin:
            return 0
        text = urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10).read().decode()
        return int(float(re.search(r"^sekisho_store_lost_events (\S+)", text, re.M)[1]))


class Peer:
    def settle(self):
        time.sleep(0.2)

    def lost_events(self):
        return 0


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Unbound(Peer):
    def __init__(self, folder, upstream, names, is_logged):
        self.name, self.port = f"unbound{' (log)' if is_logged else ''}", free_port()
        config = folder / f"unbound-{self.port}.conf"
        log = f' log-queries: yes\n log-replies: yes\n logfile: "{folder}/unbound-queries.log"\n' if is_logged else ""
        zones = "".join(f'local-zone: "{name}" always_nxdomain\n' for name in names)
        config.write_text(
            f'server:\n interface: 127.0.0.1\n port: {self.port}\n do-daemonize: no\n username: ""\n chroot: ""\n pidfile: ""\n'
            ' use-syslog: no\n module-config: "iterator"\n do-not-query-localhost: no\n num-threads: 2\n so-reuseport: yes\n'
            f' msg-cache-size: 64m\n rrset-cache-size: 128m\n{log}{zones}'
            f'forward-zone:\n name: "."\n forward-addr: 127.0.0.1@{upstream}\n'
        )
        # With `-d` alone the log goes to the terminal; `-p` keeps it from wanting a file for its number.
        self.child = subprocess.Popen(["unbound", "-d", "-p", "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Dnsdist(Peer):
    def __init__(self, folder, upstream, blocked, is_logged):
        self.name, self.port = f"dnsdist{' (log)' if is_logged else ''}", free_port()
        config = folder / f"dnsdist-{self.port}.conf"
        log = f'addAction(AllRule(), LogAction("{folder}/dnsdist-queries.log", false, true, true))\n' if is_logged else ""
        config.write_text(
            f'setLocal("127.0.0.1:{self.port}", {{reusePort=true}})\naddLocal("127.0.0.1:{self.port}", {{reusePort=true}})\n'
            f'newServer({{address="127.0.0.1:{upstream}", healthCheckMode="up"}})\nsetSecurityPollSuffix("")\n'
            f'getPool(""):setCache(newPacketCache(100000))\n{log}listed = newSuffixMatchNode()\n'
            f'for line in io.lines("{blocked}") do listed:add(newDNSName(line)) end\n'
            "addAction(SuffixMatchNodeRule(listed), RCodeAction(DNSRCode.NXDOMAIN))\n"
        )
        self.child = subprocess.Popen(["dnsdist", "--supervised", "--disable-syslog", "-C", config],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_until_answering(server, names):
    for _ in range(120):
        if server.child.poll() is not None:
            raise SystemExit(f"{server.name} ended")
        try:
            if dnsperf(server.port, names, ASKED, 1)[0] >= ASKED * 0.99:
                return
        except (TypeError, subprocess.TimeoutExpired):
            pass
        time.sleep(0.5)
    raise SystemExit(f"{server.name} does not answer")


def compare(title, servers, names, wanted):
    print(f"\n{title}")
    for server in servers:
        wait_until_answering(server, names)
        server.settle()
    rates = {server.name: [] for server in servers}
    for _ in range(wanted.rounds):
        for server in servers:
            before, lost_before = cpu_seconds(server.child.pid), server.lost_events()
            done, lost = dnsperf(server.port, names, wanted.queries, rate=wanted.rate)
            server.settle()
            spent = max(cpu_seconds(server.child.pid) - before, 0.01)
            rates[server.name].append(done / spent)
            events = f", {server.lost_events() - lost_before} events lost" if isinstance(server, Sekisho) else ""
            print(f"  {server.name:22} {done} answered, {lost} lost, {spent:.2f} CPU s, {done / spent:.0f} per CPU s{events}", flush=True)
    for server in servers:
        median, p99 = probe(server.port, names)
        print(f"  {server.name:22} median {statistics.median(rates[server.name]):.0f} per CPU s, RSS {resident_mib(server.child.pid):.0f} MiB, "
              f"answer in {median:.3f} ms, p99 {p99:.3f} ms at {PROBE_RATE} queries a second")
    peers = [server.name for server in servers if isinstance(server, Peer)]
    for ours in (server.name for server in servers if isinstance(server, Sekisho)):
        for peer in peers:
            ratios = [a / b for a, b in zip(rates[ours], rates[peer])]
            print(f"  ratio {ours} / {peer}: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--rules", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=0)
    wanted = parser.parse_args()
    started = []

    def start(server):
        started.append(server)
        return server

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        listed = [f"host{n:07}.blocked{n % 997}.example" for n in range(wanted.names)]
        blocked, names = folder / "blocked.txt", folder / "asked.txt"
        blocked.write_text("\n".join(listed) + "\n")
        names.write_text("".join(f"www{n}.site{n}.test A\n" for n in range(ASKED)))
        upstream = responder()
        try:
            full, counts = (start(Sekisho(wanted.program, folder, upstream, blocked, wanted.rules, record))
                            for record in ("full record", "counts only"))
            plain = [start(Unbound(folder, upstream, listed, False)), start(Dnsdist(folder, upstream, blocked, False))]
            compare("plain: peers without a log", [full, counts, *plain], names, wanted)
            for server in (counts, *plain):
                stop(server)
                started.remove(server)
            logged = [start(Unbound(folder, upstream, listed, True)), start(Dnsdist(folder, upstream, blocked, True))]
            compare("logged: peers with a log in a file", [full, *logged], names, wanted)
        finally:
            for server in started:
                stop(server)


def stop(server):
    server.child.terminate()
    try:
        server.child.wait(20)
    except subprocess.TimeoutExpired:
        server.child.kill()
        server.child.wait()


main()
