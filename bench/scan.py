#!/usr/bin/env python3
"""Scanning: Sekisho against clamd, file by file, in one run, with the same signatures and the same limits.

Both know the EICAR test file by the same own database (its MD5 with its size, and its bytes at the start of a file), since the
official definitions cannot be shipped. Three questions are answered:

  carriers  which files either finds the test file in, and where they differ
  bombs     CPU and wall seconds until a limit ends the scan, with equal limits
  overhead  CPU seconds of scanning in the sandboxed worker against scanning in the command's own process

CPU seconds are user plus system: of clamd read from /proc before and after each file, of ours the command's and its worker's,
less what an empty file costs, for the command starts anew each time and clamd does not. The ratio is the figure to quote.

  bench/scan.py target/release/sekisho FOLDER... [--bombs FOLDER] [--rounds 3] [--json]

Needs Debian's package clamav-daemon. Everything is bounded and stops by itself.
"""
import argparse, hashlib, json, os, pathlib, resource, socket, statistics, struct, subprocess, tempfile, time

EICAR = rb"*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\4[PA@%P!O5X"[::-1]
LIMITS = {"depth": 10, "entries": 10_000, "entry_bytes": 256 << 20, "total_bytes": 512 << 20, "time_millis": 120_000}
CLAMD = """LocalSocket {folder}/socket
DatabaseDirectory {folder}/db
Foreground yes
AlertExceedsMax yes
AlertEncrypted yes
StreamMaxLength 512M
MaxScanSize 512M
MaxFileSize 256M
MaxRecursion 10
MaxFiles 10000
MaxScanTime 120000
"""


class Clamd:
    def __init__(self, folder):
        (folder / "db").mkdir()
        (folder / "db/own.hdb").write_text(f"{hashlib.md5(EICAR).hexdigest()}:68:Own.Eicar.Hash\n")
        (folder / "db/own.ndb").write_text(f"Own.Eicar.Body:0:0:{EICAR.hex()}\n")
        (folder / "clamd.conf").write_text(CLAMD.format(folder=folder))
        os.chmod(folder, 0o755)
        self.socket = str(folder / "socket")
        self.child = subprocess.Popen(["clamd", "--config-file", folder / "clamd.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if os.path.exists(self.socket):
                return
            time.sleep(0.1)
        raise SystemExit("clamd does not start")

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def scan(self, path):
        """clamd's answer, CPU and wall seconds."""
        cpu, started = self.cpu(), time.monotonic()
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(300)
            link.connect(self.socket)
            link.sendall(b"zINSTREAM\0")
            data = path.read_bytes()
            for at in range(0, len(data), 1 << 16):
                part = data[at:at + (1 << 16)]
                link.sendall(struct.pack(">I", len(part)) + part)
            link.sendall(struct.pack(">I", 0))
            answer = b""
            while part := link.recv(4096):
                answer += part
        answer = answer.rstrip(b"\0\n").decode(errors="replace").removeprefix("stream: ")
        return answer, self.cpu() - cpu, time.monotonic() - started


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Sekisho:
    def __init__(self, program, folder):
        self.command = [program, "scan", "--json", "--definitions", folder / "db"]
        for name, value in LIMITS.items():
            self.command += ["--limit", f"{name}={value}"]

    def scan(self, paths, *more):
        """A report per path, and CPU and wall seconds of all."""
        cpu, started = children_cpu(), time.monotonic()
        done = subprocess.run(self.command + list(more) + ["--"] + paths, capture_output=True, text=True, timeout=1200)
        if done.returncode not in (0, 1, 3):
            raise SystemExit(done.stderr)
        reports = {row["path"]: row for row in map(json.loads, done.stdout.splitlines())}
        return reports, children_cpu() - cpu, time.monotonic() - started


def verdict(report):
    kind = report["verdict"]
    return f"unscannable({kind['unscannable']})" if isinstance(kind, dict) else kind


def files_in(folders):
    return sorted(path for folder in folders for path in pathlib.Path(folder).rglob("*") if path.is_file() and not path.is_symlink())


def is_limit(answer):
    return answer.startswith(("Heuristics.Limits", "Heuristics.Encrypted"))


def carriers(clamd, ours, files):
    reports, _, _ = ours.scan([str(path) for path in files])
    rows, counts = [], {"both": 0, "only_clamd": 0, "only_ours": 0, "neither": 0}
    for path in files:
        answer, _, _ = clamd.scan(path)
        found = answer.endswith(" FOUND") and not is_limit(answer)
        ours_found = verdict(reports[str(path)]) == "malicious"
        kind = {(True, True): "both", (True, False): "only_clamd", (False, True): "only_ours"}.get((found, ours_found), "neither")
        counts[kind] += 1
        if kind.startswith("only"):
            rows.append({"file": str(path), "clamd": answer, "ours": verdict(reports[str(path)])})
    return {"files": len(files), **counts, "differences": rows}


def bombs(clamd, ours, files, rounds, folder):
    empty = folder / "empty"
    empty.write_bytes(b"")
    rows = []
    for path in files:
        times = {"clamd_cpu": [], "clamd_wall": [], "ours_cpu": [], "ours_wall": []}
        for _ in range(rounds):
            answer, cpu, wall = clamd.scan(path)
            times["clamd_cpu"].append(cpu)
            times["clamd_wall"].append(wall)
            _, idle_cpu, idle_wall = ours.scan([str(empty)], "--workers", "1")
            reports, cpu, wall = ours.scan([str(path)], "--workers", "1")
            times["ours_cpu"].append(max(0.0, cpu - idle_cpu))
            times["ours_wall"].append(max(0.0, wall - idle_wall))
        row = {name: round(statistics.median(values), 3) for name, values in times.items()}
        row |= {"file": path.name, "clamd": answer, "ours": verdict(reports[str(path)])}
        row["ratio_cpu"] = round(row["ours_cpu"] / max(row["clamd_cpu"], 0.01), 3)
        row["ratio_wall"] = round(row["ours_wall"] / max(row["clamd_wall"], 0.001), 3)
        rows.append(row)
    return rows


def overhead(ours, files, rounds, folder):
    empty = folder / "empty"
    empty.write_bytes(b"")
    paths = [str(path) for path in files]
    worker, alone = [], []
    for _ in range(rounds):
        for times, how in ((alone, ["--no-sandbox"]), (worker, ["--workers", "1"])):
            idle = ours.scan([str(empty)], *how)[1]
            times.append(ours.scan(paths, *how)[1] - idle)
    row = {"files": len(paths), "in_process_cpu": round(statistics.median(alone), 3), "worker_cpu": round(statistics.median(worker), 3)}
    row["ratio"] = round(row["worker_cpu"] / row["in_process_cpu"], 3)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--bombs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        clamd = Clamd(folder)
        try:
            ours = Sekisho(os.path.abspath(arguments.program), folder)
            result = {}
            if arguments.folders:
                files = files_in(arguments.folders)
                result["carriers"] = carriers(clamd, ours, files)
                result["overhead"] = overhead(ours, files, arguments.rounds, folder)
            if arguments.bombs:
                result["bombs"] = bombs(clamd, ours, files_in([arguments.bombs]), arguments.rounds, folder)
        finally:
            clamd.child.terminate()
            clamd.child.wait()
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    if "carriers" in result:
        found = result["carriers"]
        print(f"carriers: {found['files']} files, both {found['both']}, only ours {found['only_ours']}, only clamd {found['only_clamd']}")
        for row in found["differences"]:
            print(f"  {row['file']}: clamd {row['clamd']}, ours {row['ours']}")
        print("overhead: worker {worker_cpu} s, in process {in_process_cpu} s, ratio {ratio}".format(**result["overhead"]))
    for row in result.get("bombs", []):
        print("bomb {file}: clamd {clamd_cpu} s ({clamd}), ours {ours_cpu} s ({ours}), CPU ratio {ratio_cpu}, wall ratio {ratio_wall}".format(**row))


main()
