#!/usr/bin/env python3
"""CPU of relayed bytes and of new connections, and memory of idle ones: Sekisho against haproxy and nginx stream, in one run,
on loopback.

One origin (this script) stands behind all three. Sekisho decides by a policy and records every connection; the others keep
no log. CPU is user plus system of the proxy's processes, read before and after each round. Rounds alternate and ratios of one
round are the figures to quote, for machines are noisy. haproxy may splice (option splice-auto). Everything is bounded and
stops by itself.

  cargo build --release -p sekisho
  bench/l4.py target/release/sekisho [--rounds 3] [--big-mib 4096] [--new 4000] [--idle 4000] [--only big,new,tls,idle]

Needs Debian's packages haproxy, nginx-light, libnginx-mod-stream and openssl.
"""
import argparse, json, multiprocessing, os, pathlib, resource, shutil, signal, socket, ssl, statistics, subprocess, tempfile, threading, time

TICKS = os.sysconf("SC_CLK_TCK")
PIECE = 1 << 20


def descendants(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found += [int(child), *descendants(int(child))]
    return found


def cpu(pid):
    total = 0
    for one in [pid, *descendants(pid)]:
        try:
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total / TICKS


def resident(pid):
    total = 0
    for one in [pid, *descendants(pid)]:
        try:
            lines = pathlib.Path(f"/proc/{one}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        except OSError:
            pass
    return total / 1024


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, child, log):
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if child.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on {port}:\n{pathlib.Path(log).read_text()[-2000:]}")


def origin(port):
    """The first byte says what is wanted: `s` swallow, `p` answer with one byte and close, `i` hold open."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    held = []

    def swallow(connection):
        buffer = memoryview(bytearray(PIECE))
        while connection.recv_into(buffer):
            pass
        connection.sendall(b"1")
        connection.close()

    while True:
        connection, _ = listener.accept()
        first = connection.recv(1)
        if first == b"s":
            threading.Thread(target=swallow, args=(connection,), daemon=True).start()
        elif first == b"p":
            connection.sendall(b"1")
            connection.close()
        elif first == b"i":
            connection.sendall(b"1")
            held.append(connection)
            if len(held) > 20000:
                held = held[10000:]
        else:
            connection.close()


def big(port, mib):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"s")
        piece = bytes(PIECE)
        for _ in range(mib):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"1"


def new(port, count, context=None):
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        if context:
            connection = context.wrap_socket(connection, server_hostname="svc.example")
        connection.sendall(b"p")
        assert connection.recv(1) == b"1"
        connection.close()


def idle(port, count):
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"i")
        assert connection.recv(1) == b"1"
        held.append(connection)
    return held


def start(command, port, log):
    with open(log, "w") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    wait_for(port, child, log)
    return child


def sekisho(program, folder, back, front, secure):
    app = (f'[[l4.app]]\nname = "{{name}}"\nprotocol = "tcp/{{port}}"\nedge_ips = ["127.0.0.1"]\n'
           f'origin_direct = ["tcp://127.0.0.1:{back}"]\n')
    ports = [free_port() for _ in range(5)]
    config = (f'[dns]\nudp = []\ntcp = []\n[web]\nproxy = "127.0.0.1:{ports[0]}"\nsocks5 = "127.0.0.1:{ports[1]}"\n'
              f'[admin]\nlisten = "127.0.0.1:{ports[2]}"\n' + app.format(name="plain", port=front)
              + app.format(name="tls", port=secure)
              + f'tls = "flexible"\n[l4.app.tls_settings]\ncertificates = [{{ certificate = "{folder}/leaf.pem", key = "{folder}/leaf.key" }}]\n')
    (folder / "sekisho.toml").write_text(config)
    command = [program, "--data", str(folder / "data"), "up", "--config", str(folder / "sekisho.toml")]
    return start(command, front, folder / "sekisho.log")


def haproxy(folder, back, front, secure, threads):
    (folder / "haproxy.cfg").write_text(f"""global
  nbthread {threads}
  maxconn 4900
defaults
  mode tcp
  option splice-auto
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend plain
  bind 127.0.0.1:{front}
  default_backend origin
frontend tls
  bind 127.0.0.1:{secure} ssl crt {folder}/both.pem
  default_backend origin
backend origin
  server one 127.0.0.1:{back}
""")
    return start(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], front, folder / "haproxy.log")


def nginx(folder, back, front, secure, threads):
    module = next(pathlib.Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so"))
    (folder / "nginx.conf").write_text(f"""load_module {module};
daemon off; worker_processes {threads}; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 16000; }}
stream {{
  server {{ listen 127.0.0.1:{front}; proxy_pass 127.0.0.1:{back}; proxy_timeout 1h; proxy_half_close on; }}
  server {{ listen 127.0.0.1:{secure} ssl; ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/leaf.key;
            ssl_protocols TLSv1.2 TLSv1.3; proxy_pass 127.0.0.1:{back}; }}
}}
""")
    return start(["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx.err")], front, folder / "nginx.log")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big-mib", type=int, default=4096)
    parser.add_argument("--new", type=int, default=4000)
    parser.add_argument("--idle", type=int, default=4000)
    parser.add_argument("--only", default="big,new,tls,idle")
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sekisho-l4-"))
    children, back = [], free_port()
    source = multiprocessing.Process(target=origin, args=(back,), daemon=True)
    source.start()
    try:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=svc.example", "-addext", "subjectAltName=DNS:svc.example",
                        "-keyout", f"{folder}/leaf.key", "-out", f"{folder}/leaf.pem"], check=True, capture_output=True)
        (folder / "both.pem").write_text((folder / "leaf.pem").read_text() + (folder / "leaf.key").read_text())
        threads = os.cpu_count()
        ports = {name: (free_port(), free_port()) for name in ("sekisho", "haproxy", "nginx")}
        running = {"sekisho": sekisho(arguments.program, folder, back, *ports["sekisho"])}
        children.append(running["sekisho"])
        if shutil.which("haproxy"):
            running["haproxy"] = haproxy(folder, back, *ports["haproxy"], threads)
            children.append(running["haproxy"])
        if shutil.which("nginx") and list(pathlib.Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so")):
            running["nginx"] = nginx(folder, back, *ports["nginx"], threads)
            children.append(running["nginx"])
        context = ssl.create_default_context(cafile=f"{folder}/leaf.pem")
        kinds = {
            "big": (lambda plain, _: big(plain, arguments.big_mib), 1024 / arguments.big_mib, "CPU s per GiB"),
            "new": (lambda plain, _: new(plain, arguments.new), 1e6 / arguments.new, "CPU us per connection"),
            "tls": (lambda _, tls: new(tls, arguments.new // 4, context), 4e6 / arguments.new, "CPU us per TLS connection"),
        }
        wanted = arguments.only.split(",")
        results = {}
        for kind, (load, scale, unit) in kinds.items():
            if kind not in wanted:
                continue
            figures = {name: [] for name in running}
            for round_number in range(arguments.rounds + 1):
                for name, child in running.items():
                    before = cpu(child.pid)
                    load(*ports[name])
                    time.sleep(0.2)
                    # The first round warms up.
                    if round_number:
                        figures[name].append((cpu(child.pid) - before) * scale)
            ratios = {name: statistics.median(a / b for a, b in zip(figures["sekisho"], figures[name])) for name in running}
            medians = {name: statistics.median(values) for name, values in figures.items()}
            results[kind] = {"unit": unit, **{name: [round(value, 4) for value in values] for name, values in figures.items()}}
            print(f"{kind}: {unit}: " + ", ".join(f"{name} {medians[name]:.3f} (sekisho/{name} {ratios[name]:.2f})" for name in running))
        if "idle" in wanted:
            for name, child in running.items():
                before = resident(child.pid)
                held = idle(ports[name][0], arguments.idle)
                time.sleep(1)
                each = (resident(child.pid) - before) * 1024 / arguments.idle
                results.setdefault("idle", {})[name] = round(each, 2)
                print(f"idle: {name}: {each:.2f} KiB a flow over {arguments.idle} flows, {each * 100_000 / 1024 / 1024:.2f} GiB for 100,000")
                for connection in held:
                    connection.close()
        print(json.dumps(results))
    finally:
        for child in children:
            child.send_signal(signal.SIGTERM)
        for child in children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
        source.terminate()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
