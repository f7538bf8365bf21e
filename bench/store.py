#!/usr/bin/env python3
"""Look-ups in a lake of events: Sekisho against DuckDB and ClickHouse on the same files, in the same run.

    cargo build --release -p store --examples
    target/release/examples/ingest 50000000 LAKE     # once: about 4 GB while it merges, 2 GB afterwards
    bench/store.py LAKE [--examples target/release/examples] [--spark] [--delta] [--indicators 10000]

Peers come from the Python package index: duckdb, chdb (ClickHouse in the process), and for --spark and --delta pyspark (with a
Java runtime), deltalake and pyarrow. delta-spark is not used: its wheel has no Java part, which comes from Maven alone. Peers
are timed inside their process after a first query, so that none pays for its start. Cold is the first run after the lake's
files have left the page cache; warm is the median of the later ones. Every answer is compared: a peer that counts otherwise
ends the run with exit code 1.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

WARM_RUNS = 7
# Names that the generator of the lake makes by rank: a rare one, one of some hundred sightings, and none.
RARE, COMMON, ABSENT = "site999923.example3", "site2000.example0", "never.seen.example"
ADDRESS = "198.18.7.77"


def files_of(lake):
    """The files of the newest manifest, by kind."""
    folder = os.path.join(lake, "_manifest")
    newest = max(name for name in os.listdir(folder) if name.endswith(".json"))
    with open(os.path.join(folder, newest)) as manifest:
        files = json.load(manifest)["files"]
    kinds = {}
    for file in files:
        kinds.setdefault(file["kind"], []).append(os.path.join(lake, file["path"]))
    return kinds.get("events", []), kinds.get("sightings", []) + kinds.get("monthly_sightings", []), files


def forget_pages(lake):
    """Lets the lake's files leave the page cache, and no other file on the machine."""
    for folder, _, names in os.walk(lake):
        for name in names:
            handle = os.open(os.path.join(folder, name), os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def timed(run):
    begun = time.perf_counter()
    answer = run()
    return (time.perf_counter() - begun) * 1e3, answer


def measure(lake, run):
    forget_pages(lake)
    cold, answer = timed(run)
    warm = statistics.median(timed(run)[0] for _ in range(WARM_RUNS))
    return {"cold_ms": cold, "warm_ms": warm, "answer": answer}


def sql_list(paths):
    return "[" + ", ".join(f"'{path}'" for path in paths) + "]"


WHO = "user_name, device_name, src_ip, sum(count) AS met, sum(blocked) AS refused, min(first_seen), max(last_seen)"


class DuckDb:
    name = "duckdb"

    def __init__(self, sightings):
        import duckdb

        self.connection = duckdb.connect()
        self.connection.execute("SET enable_progress_bar = false")
        self.connection.execute(f"CREATE VIEW sightings AS SELECT * FROM read_parquet({sql_list(sightings)}, hive_partitioning=false)")
        self.connection.execute("CREATE TABLE wanted(value VARCHAR)")
        self.query("SELECT count(*) FROM sightings WHERE value = ''")

    def query(self, text):
        return self.connection.execute(text).fetchall()

    def hunt(self, values):
        self.connection.execute("DELETE FROM wanted")
        path = "/tmp/sekisho-bench-wanted.csv"
        with open(path, "w") as out:
            out.writelines(f"{value}\n" for value in values)
        self.connection.execute(f"COPY wanted FROM '{path}' (HEADER false)")
        os.unlink(path)

    def events(self, paths):
        return f"read_parquet({sql_list(paths)}, hive_partitioning=false)"


class ClickHouse:
    name = "clickhouse (chdb)"

    def __init__(self, sightings):
        from chdb import session

        self.session = session.Session()
        self.files = self.alternatives(sightings)
        self.session.query("CREATE DATABASE IF NOT EXISTS bench ENGINE = Atomic")
        self.session.query(f"CREATE VIEW bench.sightings AS SELECT * FROM file('{self.files}', Parquet)")
        self.query("SELECT count(*) FROM sightings WHERE value = ''")

    def query(self, text):
        text = text.replace(" sightings", " bench.sightings").replace(" wanted", " bench.wanted")
        rows = self.session.query(text, "JSONCompactEachRow").bytes().decode().splitlines()
        return [json.loads(row) for row in rows]

    def hunt(self, values):
        self.session.query("DROP TABLE IF EXISTS bench.wanted")
        self.session.query("CREATE TABLE bench.wanted (value String) ENGINE = Memory")
        rows = ", ".join(f"('{value}')" for value in values)
        self.session.query(f"INSERT INTO bench.wanted VALUES {rows}")

    @staticmethod
    def alternatives(paths):
        """Files as one pattern. ClickHouse reads a pattern that begins with its alternatives as a relative path."""
        if len(paths) == 1:
            return paths[0]
        root = os.path.commonpath(paths)
        return root + "/{" + ",".join(os.path.relpath(path, root) for path in paths) + "}"

    def events(self, paths):
        return f"file('{self.alternatives(paths)}', Parquet)"


def counts(rows):
    return {"rows": len(rows), "count": sum(int(row[3]) for row in rows), "blocked": sum(int(row[4]) for row in rows)}


def peers_look_up(lake, peer, kind_id, value):
    text = f"SELECT {WHO} FROM sightings WHERE type_id = {kind_id} AND value = '{value}' GROUP BY user_name, device_name, src_ip"
    return measure(lake, lambda: counts(peer.query(text)))


def peers_hunt(lake, peer, values):
    peer.hunt(values)
    text = (
        "SELECT user_name, device_name, src_ip, sum(count) AS met, sum(blocked) AS refused, value FROM sightings "
        "WHERE type_id = 1 AND value IN (SELECT value FROM wanted) GROUP BY user_name, device_name, src_ip, value"
    )
    return measure(lake, lambda: counts(peer.query(text)))


def ours(arguments, what):
    """Each look-up in a process of its own, after the pages were forgotten."""
    report = {}
    for value in what:
        forget_pages(arguments.lake)
        command = [os.path.join(arguments.examples, "lookup"), arguments.lake, value]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[value]
        report[value] = {
            "cold_ms": answer["cold_ms"],
            "warm_ms": answer["warm_ms"],
            "answer": {key: answer[key] for key in ("rows", "count", "blocked")},
        }
    return report


def hunted(number):
    """Names that nobody met, and fifty that somebody may have."""
    met = [f"site{rank * 19000 + 7}.example{(rank * 19000 + 7) % 10}" for rank in range(50)]
    return met + [f"bad{place}.evil.example" for place in range(number - len(met))]


def agree_on_events(arguments, peers, events, problems):
    # event_id is summed in parts, since a sum of 50 million of them is beyond 64 bits on no engine but near it on some.
    columns = "count(*), sum(event_id), sum(bytes_in), count(DISTINCT host), count(DISTINCT user_name), max(file_sha256)"
    answers = {}
    for peer in peers:
        answers[peer.name] = [str(cell) for cell in peer.query(f"SELECT {columns} FROM {peer.events(events)}")[0]]
    if arguments.spark:
        from pyspark.sql import SparkSession

        spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        spark.read.parquet(*events).createOrReplaceTempView("events")
        answers["spark"] = [str(cell) for cell in spark.sql(f"SELECT {columns} FROM events").collect()[0]]
        spark.stop()
    if arguments.delta:
        from deltalake import DeltaTable

        table = os.path.join(os.path.abspath(arguments.lake), "events")
        added = DeltaTable(table).get_add_actions(flatten=True)
        answers["deltalake: files"] = [str(added.num_rows)]
        duckdb = next(peer for peer in peers if isinstance(peer, DuckDb))
        duckdb.connection.register("delta_events", DeltaTable(table).to_pyarrow_dataset())
        answers["duckdb over delta"] = [str(cell) for cell in duckdb.query(f"SELECT {columns} FROM delta_events")[0]]
        clickhouse = next(peer for peer in peers if isinstance(peer, ClickHouse))
        answers["clickhouse over delta"] = [
            str(cell) for cell in clickhouse.query(f"SELECT {columns} FROM deltaLakeLocal('{table}')")[0]
        ]
    print("\nthe same lake, read by others: count, sum(event_id), sum(bytes_in), distinct hosts, distinct users, max(sha256)")
    whole = [answer for name, answer in answers.items() if name != "deltalake: files"]
    for name, answer in answers.items():
        print(f"  {name:<24} {' '.join(answer)}")
    if any(answer != whole[0] for answer in whole):
        problems.append("engines disagree on the events")
    if arguments.delta and answers["deltalake: files"] != [str(len(events))]:
        problems.append("the Delta log names other files than the manifest")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lake")
    parser.add_argument("--examples", default="target/release/examples")
    parser.add_argument("--indicators", type=int, default=10_000)
    parser.add_argument("--spark", action="store_true")
    parser.add_argument("--delta", action="store_true")
    parser.add_argument("--skip-events", action="store_true", help="do not read the events themselves, only sightings")
    arguments = parser.parse_args()
    arguments.lake, arguments.examples = os.path.abspath(arguments.lake), os.path.abspath(arguments.examples)
    # ClickHouse reads a local Delta table only below its folder of files, which in chdb is the working directory.
    os.chdir(arguments.lake)
    events, sightings, files = files_of(arguments.lake)
    rows = sum(file["rows"] for file in files if file["kind"] == "events")
    met = sum(file["rows"] for file in files if file["kind"] != "events")
    bytes_ = sum(file["bytes"] for file in files)
    print(f"{rows:,} events in {len(events)} files, {met:,} sightings in {len(sightings)} files, {bytes_ / rows:.1f} bytes an event")
    peers = [DuckDb(sightings), ClickHouse(sightings)]
    values = hunted(arguments.indicators)
    path = "/tmp/sekisho-bench-indicators.txt"
    with open(path, "w") as out:
        out.writelines(f"{value}\n" for value in values)
    plan = [("rare name", RARE, 1), ("common name", COMMON, 1), ("absent name", ABSENT, 1), ("address", ADDRESS, 2)]
    mine = ours(arguments, [value for _, value, _ in plan] + [f"@{path}"])
    problems = []
    print(f"\n{'look-up':<18}{'engine':<20}{'cold ms':>10}{'warm ms':>10}{'x cold':>9}{'x warm':>9}   found")

    def line(label, engine, result, base):
        ratios = f"{result['cold_ms'] / base['cold_ms']:>9.1f}{result['warm_ms'] / base['warm_ms']:>9.1f}"
        print(f"{label:<18}{engine:<20}{result['cold_ms']:>10.1f}{result['warm_ms']:>10.1f}{ratios}   {result['answer']}")
        if result["answer"] != base["answer"]:
            problems.append(f"{engine} disagrees on {label}")

    for label, value, kind_id in plan:
        line(label, "sekisho", mine[value], mine[value])
        for peer in peers:
            line(label, peer.name, peers_look_up(arguments.lake, peer, kind_id, value), mine[value])
    label, base = f"{len(values):,} names", mine[f"@{path}"]
    line(label, "sekisho", base, base)
    for peer in peers:
        line(label, peer.name, peers_hunt(arguments.lake, peer, values), base)
    os.unlink(path)
    if not arguments.skip_events:
        agree_on_events(arguments, peers, events, problems)
    for problem in problems:
        print(f"WRONG: {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
