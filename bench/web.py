#!/usr/bin/env python3
"""CPU of an inspected web request, connection and gigabyte: Sekisho against squid with ssl-bump, in one run, on loopback.

One nginx is the TLS origin of both; the load (crates/testkit/examples/web_load.rs) goes through CONNECT with TLS on both
sides. Sekisho decides by a policy and records every request; squid caches nothing and keeps no log. CPU is user plus system
of the process and, told apart, of its children (scan workers, squid's certificate helper), read before and after each round.
Rounds alternate; ratios of one round are the figures to quote, for machines are noisy. Everything is bounded and stops by
itself.

  cargo build --release -p sekisho -p testkit --bin sekisho --example web_load
  bench/web.py target/release/sekisho [--rounds 3] [--seconds 5] [--big-mib 1024] [--only keepalive,new,big,files,parallel]

Needs Debian's packages nginx-light, squid-openssl and openssl. Runs as root, because squid drops its privileges itself.
"""
import argparse, json, os, pathlib, re, shutil, socket, statistics, subprocess, tempfile, threading, time

CERTGEN = "/usr/lib/squid/security_file_certgen"
TICKS = os.sysconf("SC_CLK_TCK")
GIB = 1 << 30


def descendants(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def own_cpu(pid):
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, child, log):
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if child.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}: {log.read_text()[-2000:]}")


def run(*command, **more):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, **more).stdout


def make_certificates(folder):
    """An authority for the origin with a certificate for localhost, and an authority for squid."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for name in ["origin-ca", "squid-ca"]:
        run("openssl", "req", "-x509", *curve, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem", "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    run("openssl", "req", *curve[:-2], "-keyout", folder / "origin.key", "-out", folder / "origin.csr", "-subj", "/CN=localhost")
    (folder / "origin.ext").write_text("subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n")
    run("openssl", "x509", "-req", "-in", folder / "origin.csr", "-CA", folder / "origin-ca.pem", "-CAkey", folder / "origin-ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", folder / "origin.ext", "-out", folder / "origin.pem")
    (folder / "squid-both.pem").write_text((folder / "squid-ca.pem").read_text() + (folder / "squid-ca.key").read_text())


def write_random(path, mib):
    with open(path, "wb") as out:
        for _ in range(mib):
            out.write(os.urandom(1 << 20))


def start_origin(folder, big_mib, file_mib):
    """Files of random bytes, so that no scanner finds a container in them."""
    root, port = folder / "www", free_port()
    root.mkdir()
    (root / "small.html").write_text("<p>" + "x" * 1020 + "\n")
    (root / "small.png").write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(1016))
    write_random(root / "big.bin", big_mib)
    write_random(root / "file.bin", file_mib)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 4; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        "events { worker_connections 4096; }\n"
        "http { types { text/html html; image/png png; application/octet-stream bin; }\n"
        f" access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;\n"
        f" uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; keepalive_requests 100000000; tcp_nodelay on;\n"
        f" server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/origin.pem; ssl_certificate_key {folder}/origin.key;\n"
        "  ssl_protocols TLSv1.2 TLSv1.3;\n"
        f"  ssl_buffer_size 16k; root {root}; }} }}\n"
    )
    # nginx drops to a user of its own, which must be able to read the files.
    folder.chmod(0o755)
    child = subprocess.Popen(["nginx", "-c", config], stderr=open(folder / "nginx.err", "w"))
    wait_for_port(port, child, folder / "nginx.err")
    return child, port


def start_squid(folder, log):
    port, config, home = free_port(), folder / "squid.conf", folder / "squid"
    home.mkdir()
    run(CERTGEN, "-c", "-s", home / "certificates", "-M", "4MB")
    for path in [home, *home.rglob("*"), folder / "squid-both.pem"]:
        shutil.chown(path, "proxy", "proxy")
    config.write_text(
        f"http_port 127.0.0.1:{port} ssl-bump tls-cert={folder}/squid-both.pem generate-host-certificates=on"
        " dynamic_cert_mem_cache_size=16MB\n"
        f"sslcrtd_program {CERTGEN} -s {home}/certificates -M 4MB\nsslcrtd_children 2 startup=1\n"
        "acl first at_step SslBump1\nssl_bump peek first\nssl_bump bump all\n"
        f"tls_outgoing_options cafile={folder}/origin-ca.pem\nacl all_ports port 1-65535\nhttp_access allow all\n"
        f"cache deny all\naccess_log {log}\ncache_log {home}/cache.log\npid_filename none\ncoredump_dir {home}\n"
        "shutdown_lifetime 1 second\nmax_filedescriptors 8192\nmemory_pools on\n"
    )
    child = subprocess.Popen(["squid", "-N", "-f", config], stdout=subprocess.DEVNULL, stderr=open(folder / "squid.err", "w"))
    wait_for_port(port, child, folder / "squid.err")
    return {"child": child, "port": port, "ca": folder / "squid-ca.pem"}


def policy(count):
    """Rules of the kinds that people write, none of which matches: the whole list is read for each request."""
    kinds = ['any(http.request.domains[*] == "rule{n}.example")', 'http.request.uri.path contains "/rule{n}/"',
             'http.request.uri.path_and_query matches "^/x{n}[0-9]+$"', 'http.request.method == "PUT" and http.request.host == "h{n}.example"']
    rules = [f"[[rule]]\nname = \"rule {n}\"\ngate = \"web\"\naction = \"block\"\nwhen = '{kinds[n % len(kinds)].replace('{n}', str(n))}'\n"
             for n in range(count)]
    return "".join(rules)


def start_sekisho(program, folder, name, rules, scans, extra=""):
    home = folder / name
    home.mkdir()
    config, ready, log = home / "sekisho.toml", home / "ready.json", home / "log"
    config.write_text(
        f'[trust]\nextra_roots = ["{folder}/origin-ca.pem"]\n[upstream]\ndanger_exempt = ["127.0.0.0/8", "::1/128"]\n'
        f"[web.scan]\ndownloads = {str(scans).lower()}\nuploads = {str(scans).lower()}\nspool_directory = \"{home}\"\n{extra}"
    )
    (home / "policy.toml").write_text(policy(rules))
    command = [program, "--data", str(home / "data")]
    child = subprocess.Popen(command + ["up", "--config", config, "--ephemeral-ports", "--ready-file", ready],
                             stdout=subprocess.DEVNULL, stderr=open(log, "w"))
    for _ in range(600):
        if ready.exists():
            break
        if child.poll() is not None:
            raise SystemExit(f"sekisho ended: {log.read_text()}")
        time.sleep(0.1)
    if rules:
        run(*command, "apply", home / "policy.toml")
    told = json.loads(ready.read_text())
    addresses = {(row["gate"], row["protocol"]): row["address"] for row in told["listeners"]}
    return {"child": child, "port": int(addresses["web", "http"].rsplit(":", 1)[1]), "ca": pathlib.Path(told["ca"]),
            "admin": addresses["admin", "http"]}


class Watch:
    """The largest resident memory while something runs, of the process and of its children in sum."""

    def __init__(self, pid):
        self.pid, self.own, self.children, self.stop = pid, 0.0, 0.0, threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)

    def loop(self):
        while not self.stop.wait(0.1):
            self.own = max(self.own, resident_mib(self.pid))
            self.children = max(self.children, sum(map(resident_mib, descendants(self.pid))))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def load(program, server, origin, **options):
    words = [program, "--target", f"localhost:{origin}", "--ca", server["ca"], "--proxy", f"127.0.0.1:{server['port']}"]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", value]
    children = descendants(server["child"].pid)
    before = own_cpu(server["child"].pid), sum(map(own_cpu, children))
    with Watch(server["child"].pid) as watch:
        told = json.loads(run(*words, timeout=900))
    told["own"] = own_cpu(server["child"].pid) - before[0]
    told["children"] = sum(map(own_cpu, descendants(server["child"].pid))) - before[1]
    told["rss"], told["rss_children"] = watch.own, watch.children
    return told


def per_request(told):
    count = max(told["requests"], 1)
    return told["own"] / count * 1e6, told["children"] / count * 1e6


def per_gib(told):
    gib = max(told["bytes"], 1) / GIB
    return told["own"] / gib, told["children"] / gib


def events_committed(server):
    """What the record has, as the metrics say; zero where they cannot be read."""
    try:
        text = run("curl", "-s", f"http://{server['admin']}/metrics")
    except (subprocess.CalledProcessError, FileNotFoundError):
        return {}
    return {name: value for name, value in re.findall(r"^(sekisho_store_\w*(?:committed|lost)\w*) (\S+)", text, re.M)}


def contest(title, unit, cost, peer, wanted, servers, loader, **options):
    """Rounds over all servers in turn; prints each round, the medians, and the ratios to the peer of the same round."""
    print(f"\n== {title}")
    rows = {name: [] for name in servers}
    for number in range(wanted.rounds):
        for name, server in servers.items():
            told = loader(server, **options)
            own, children = cost(told)
            rows[name].append({**told, "sum": own + children, "own": own, "rate": told["requests"] / told["seconds"]})
            print(f"  {number + 1} {name:16} {told['requests']:8} done {told['errors']:3} errors  {own:9.3f} + {children:7.3f} {unit}"
                  f"  {told['requests'] / told['seconds']:9.1f}/s  p50 {told['p50_us']} us  p99 {told['p99_us']} us"
                  f"  RSS {told['rss']:.0f} + {told['rss_children']:.0f} MiB {told['error']}")
    for name, found in rows.items():
        median = lambda key: statistics.median(row[key] for row in found)
        line = f"  {name:16} median {median('sum'):.3f} {unit} ({median('own'):.3f} without children), {median('rate'):.1f}/s"
        if name != peer and rows.get(peer):
            pairs = list(zip(found, rows[peer]))
            line += f"; of {peer}: CPU {statistics.median(a['sum'] / max(b['sum'], 1e-9) for a, b in pairs):.2f}"
            line += f", throughput {statistics.median(a['rate'] / max(b['rate'], 1e-9) for a, b in pairs):.2f}"
        print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--load", help="the load program; by default beside the program, under examples/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rules", type=int, default=50)
    parser.add_argument("--big-mib", type=int, default=1024)
    parser.add_argument("--file-mib", type=int, default=64, help="a file below the size that is scanned")
    parser.add_argument("--parallel", type=int, default=100)
    parser.add_argument("--only", default="keepalive,new,big,files,parallel")
    parser.add_argument("--squid-log", default="none", help="squid's access_log; Debian's own is daemon:/var/log/squid/access.log")
    parser.add_argument("--peers", default="sekisho,sekisho-no-scan,squid")
    wanted = parser.parse_args()
    program = pathlib.Path(wanted.program).resolve()
    load_program = wanted.load or program.parent / "examples" / "web_load"
    parts, peers = wanted.only.split(","), wanted.peers.split(",")
    with tempfile.TemporaryDirectory() as folder:
        folder, started = pathlib.Path(folder), []
        try:
            make_certificates(folder)
            origin, port = start_origin(folder, wanted.big_mib, wanted.file_mib)
            started.append(origin)
            servers = {}
            for name in peers:
                if name == "squid":
                    servers[name] = start_squid(folder, wanted.squid_log)
                else:
                    servers[name] = start_sekisho(program, folder, name, wanted.rules, name == "sekisho")
                started.append(servers[name]["child"])
            go = lambda server, **options: load(load_program, server, port, **options)
            without_scan = {name: server for name, server in servers.items() if name != "sekisho-no-scan"}
            for server in servers.values():
                go(server, mode="keepalive", path="/small.html", seconds=1)
            if "keepalive" in parts:
                contest("1 KiB of HTML, keep-alive", "us/request", per_request, "squid", wanted, servers, go, mode="keepalive",
                        path="/small.html", seconds=wanted.seconds, connections=wanted.connections)
            if "image" in parts:
                contest("1 KiB of PNG, keep-alive", "us/request", per_request, "squid", wanted, servers, go, mode="keepalive",
                        path="/small.png", seconds=wanted.seconds, connections=wanted.connections)
            if "new" in parts:
                contest("a new connection for each request", "us/connection", per_request, "squid", wanted, servers, go, mode="new",
                        path="/small.html", seconds=wanted.seconds, connections=wanted.connections)
            if "big" in parts:
                contest(f"one download of {wanted.big_mib} MiB", "CPU s/GiB", per_gib, "squid", wanted, servers, go,
                        mode="download", path="/big.bin", connections=1)
            if "files" in parts:
                contest(f"downloads of {wanted.file_mib} MiB", "CPU s/GiB", per_gib, "squid", wanted, servers, go,
                        mode="download", path="/file.bin", connections=2, count=8)
            if "parallel" in parts:
                contest(f"{wanted.parallel} parallel downloads of {wanted.big_mib} MiB, left after 20 s", "CPU s/GiB", per_gib, "squid",
                        argparse.Namespace(rounds=1), without_scan, go, mode="download", path="/big.bin", seconds=20,
                        connections=wanted.parallel)
                contest(f"{wanted.parallel} slow readers of {wanted.big_mib} MiB, left after 20 s", "CPU s/GiB", per_gib, "squid",
                        argparse.Namespace(rounds=1), without_scan, go, mode="download", path="/big.bin", seconds=20, pause_ms=500,
                        connections=wanted.parallel)
                contest(f"{wanted.parallel} parallel downloads of {wanted.file_mib} MiB", "CPU s/GiB", per_gib, "squid",
                        argparse.Namespace(rounds=1), without_scan, go, mode="download", path="/file.bin", connections=wanted.parallel)
            for name, server in servers.items():
                if "admin" in server:
                    print(name, events_committed(server))
        finally:
            for child in reversed(started):
                child.terminate()
            for child in started:
                try:
                    child.wait(15)
                except subprocess.TimeoutExpired:
                    child.kill()


main()
