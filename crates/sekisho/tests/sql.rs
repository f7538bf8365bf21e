//! `sekisho sql` as a user meets it: the same answers as the other commands, over files and what is not sealed yet, at rest
//! and running; and queries that would hurt, each ended by its bound while the gate answers.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

mod rig;

use std::process::Command;
use std::time::{Duration, Instant};

use rig::{Installation, Running, ask_for, name, now, page};

const MINUTE: i64 = 60_000_000;
const NAMES: i64 = 6_000;
/// What a name that no upstream answers for may take; these tests have no upstream.
const GATE_WAIT_MAX: Duration = Duration::from_secs(15);

/// Six thousand names of six thousand minutes, and a page each hundredth minute; two thirds are sealed.
fn installation() -> Installation {
    let (installation, now) = (Installation::new(), now());
    let mut sealed = Vec::new();
    let mut unsealed = Vec::new();
    for number in 0..NAMES {
        let at = now.plus_micros(-(number + 1) * MINUTE);
        let events = if number < NAMES / 3 { &mut unsealed } else { &mut sealed };
        let outcome = if number % 7 == 0 { "blocked" } else { "allowed" };
        events.push(name(&format!("h{}.site{}.example", number % 50, number % 5), number as u32 % 11, outcome, at));
        if number % 100 == 0 {
            events.push(page("https://shop.example/x", "shop.example", number, at));
        }
    }
    installation.record(sealed, unsealed);
    installation
}

fn lines(installation: &Installation, sql: &str, more: &[&str]) -> Vec<String> {
    let (out, error, code) = installation.ask(&[&["sql", sql, "--format", "csv"], more].concat());
    assert_eq!(code, Some(0), "{}: {error}", sql.get(..200).unwrap_or(sql));
    out.lines().skip(1).map(|line| line.replace('"', "")).collect()
}

/// What cannot be answered: the message and the exit code. The text goes by standard input, which takes any length.
fn refused(installation: &Installation, sql: &str) -> (String, Option<i32>) {
    let (out, error, code) = installation.ask_with(&["sql", "-"], sql);
    assert!(out.is_empty(), "{sql}: {out}");
    (error, code)
}

#[test]
fn answers_are_those_of_search_count_and_touched() {
    let installation = installation();
    let mut running = Running::start_in(installation.folder.path(), "");
    compare(&installation);
    // What was decided a moment ago is there as soon as it is asked for.
    assert!(ask_for(running.dns(), "just.now.invalid"));
    assert_eq!(lines(&installation, "SELECT count(*) FROM events WHERE host = 'just.now.invalid'", &[]), ["1"]);
    running.stop();
    compare(&installation);
}

fn compare(installation: &Installation) {
    let ours = |arguments: &[&str]| installation.ask(arguments).0;
    let of_record = "host <> 'just.now.invalid'";
    assert_eq!(lines(installation, &format!("SELECT count(*) FROM events WHERE {of_record}"), &[]), ["6060"]);
    let found =
        ours(&["search", "not dns.fqdn == \"just.now.invalid\"", "--format", "json", "--limit", "100000", "--since", "1000m"]);
    let since = lines(installation, &format!("SELECT count(*) FROM events WHERE {of_record}"), &["--since", "1000m"]);
    assert_eq!(since, [found.lines().count().to_string()]);
    let page = "SELECT count(*) FROM events WHERE host = 'shop.example'";
    assert_eq!(lines(installation, page, &["--since", "5050m", "--until", "1050m"]), ["40"]);

    let by_host = "SELECT host, count(*) FROM events WHERE class_uid = 4003 GROUP BY host ORDER BY 2 DESC, 1 LIMIT 9";
    let count =
        ["search", "event.gate == \"dns\"", "--count-by", "dns.fqdn", "--since", "30d", "--limit", "9", "--format", "csv"];
    let counted = ours(&count).lines().skip(1).map(|line| line.replace('"', "")).collect::<Vec<_>>();
    assert_eq!(lines(installation, by_host, &[]), counted);
    let blocked = lines(installation, "SELECT count(*) FROM events WHERE disposition = 'blocked' AND host LIKE 'h1.%'", &[]);
    let search =
        ["search", "verdict.outcome == \"blocked\" and dns.fqdn matches \"^h1[.]\"", "--since", "30d", "--format", "json"];
    assert_eq!(blocked, [ours(&search).lines().count().to_string()]);

    let in_list = "SELECT count(*) FROM events WHERE host IN ('h1.site1.example', 'h2.site2.example', 'absent.example')";
    assert_eq!(lines(installation, in_list, &[]), ["240"]);
    let element = "SELECT count(*) FROM events WHERE array_has(dns_resolved_ips, '192.0.2.3')";
    assert_eq!(lines(installation, element, &[]), ["546"], "an element of a list column");
    let several = "SELECT sum(bytes_in), min(time) < max(time), count(DISTINCT user_name) FROM events WHERE class_uid = 4002 OR user_name <> ''";
    assert_eq!(lines(installation, several, &[]), ["177000,true,11"]);

    let sighting =
        "SELECT kind, sum(count), sum(blocked), min(gates) FROM sightings WHERE value = 'h0.site0.example' GROUP BY kind";
    let touched: serde_json::Value = serde_json::from_str(&ours(&["touched", "h0.site0.example", "--json"])).unwrap();
    let sum = |name: &str| touched.as_array().unwrap().iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
    assert!(sum("count") == 120, "{touched}");
    assert_eq!(lines(installation, sighting, &[]), [format!("hostname,{},{},dns", sum("count"), sum("blocked"))]);
}

#[test]
fn tables_and_columns_can_be_found_out_and_answers_are_cut_where_asked() {
    let installation = installation();
    let columns = lines(&installation, "DESCRIBE events", &[]);
    assert!(columns.iter().any(|line| line.starts_with("host,")), "{columns:?}");
    assert!(columns.iter().any(|line| line.starts_with("time,Timestamp")), "{columns:?}");
    let tables = lines(&installation, "SHOW TABLES", &[]);
    assert!(
        tables.iter().any(|line| line.contains(",events,")) && tables.iter().any(|line| line.contains(",sightings,")),
        "{tables:?}"
    );
    let plan = lines(&installation, "EXPLAIN SELECT host FROM events WHERE time > now()", &[]).join("\n");
    assert!(plan.contains("physical_plan"), "{plan}");
    let (out, error, code) = installation.ask(&["sql", "SELECT event_id FROM events", "--limit", "3", "--format", "json"]);
    assert_eq!((out.lines().count(), code), (3, Some(0)));
    assert!(error.contains("there are more"), "{error}");
    let (out, _, _) = installation.ask(&["sql", "SELECT NULL AS a, 1.5 AS b, 'x' AS c, [1, 2] AS d", "--format", "json"]);
    assert_eq!(out, "{\"a\":null,\"b\":1.5,\"c\":\"x\",\"d\":[1,2]}\n");
}

#[test]
fn what_is_no_query_over_the_record_is_refused_with_the_reason() {
    let installation = installation();
    for (sql, reason) in [
        ("SELEC 1", "SELEC"),
        ("SELECT hosst FROM events", "host"),
        ("SELECT 1 FROM evnts", "evnts"),
        ("SELECT nosuch(host) FROM events", "nosuch"),
        ("DROP TABLE events", "only SELECT"),
        ("SET datafusion.execution.batch_size = 1", "only SELECT"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "only SELECT"),
        ("COPY (SELECT 1) TO '/tmp/sekisho-sql-test.csv'", "only SELECT"),
        ("INSERT INTO events SELECT * FROM events", "only SELECT"),
        ("SELECT 1; SELECT 2", "one query at a time"),
        ("SELECT * FROM '/etc/passwd'", "/etc/passwd"),
        ("", "empty"),
        ("SELECT regexp_like(host, '(a{1000}){1000}') FROM events", "CompiledTooBig"),
    ] {
        let (error, code) = refused(&installation, sql);
        assert!(code == Some(2) && error.to_lowercase().contains(&reason.to_lowercase()), "{sql}: {code:?} {error}");
    }
}

/// Processes that this one started and that still are there.
fn children(process_id: u32) -> Vec<String> {
    let path = format!("/proc/{process_id}/task");
    let tasks = std::fs::read_dir(path).unwrap().flatten();
    let ids = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let ids = ids.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    ids.filter_map(|id| std::fs::read_to_string(format!("/proc/{id}/cmdline")).ok()).collect()
}

#[test]
fn a_query_that_runs_away_ends_by_its_bound_and_the_gate_does_not_notice() {
    let installation = installation();
    let mut running = Running::start_in(installation.folder.path(), "[query]\nseconds_max = 3\n");
    let deep = |open: &str, inner: &str, close: &str, depth: usize| {
        format!("SELECT {}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    let refused_before = [
        format!("SELECT 1 FROM events WHERE {}", vec!["host = 'a'"; 20_000].join(" OR ")),
        format!("SELECT 1 FROM events WHERE {}", vec!["1=1"; 9_000].join(" OR ")),
        format!("SELECT 1 FROM events WHERE {}", vec!["host = 'a'"; 3_000].join(" AND NOT ")),
        deep("(", "1", ")", 20_000),
        deep("abs(", "1", ")", 5_000),
        deep("NOT ", "true", "", 15_000),
        deep("- ", "1", "", 15_000),
        deep("CASE WHEN true THEN ", "1", " END", 2_000),
        deep("[", "1", "]", 10_000),
        format!("{}SELECT 1{}", "SELECT * FROM (".repeat(2_000), ")".repeat(2_000)),
        vec!["SELECT 1"; 5_000].join(" UNION ALL "),
        format!("SELECT 1{}", " + 1".repeat(15_000)),
        format!("SELECT 1 FROM {}", vec!["events"; 5_000].join(", ")),
    ];
    for sql in refused_before {
        let (error, code) = refused(&installation, &sql);
        assert!(code == Some(2) && error.len() < 1_000, "{}: {code:?} {error}", &sql[..60]);
    }
    let recursion = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t";
    ends_by_bound(&installation, &running, recursion, "longer than 3 s");
    // Which bound such a join meets first depends on how fast the machine fills memory.
    let join = "SELECT count(*) FROM events a, events b, events c WHERE a.host < b.user_name OR b.host > c.host";
    ends_by_bound(&installation, &running, join, " than ");
    running.stop();
    let running = Running::start_in(installation.folder.path(), "[query]\nmemory_bytes_max = 4194304\nseconds_max = 60\n");
    for sql in [
        "SELECT a.event_id, b.event_id, count(*) FROM events a CROSS JOIN events b GROUP BY 1, 2",
        "SELECT array_length(range(0, 1000000000))",
    ] {
        ends_by_bound(&installation, &running, sql, "memory");
    }
    // What is only large or looks dangerous is answered, by engines that are compiled without care too.
    assert_eq!(
        lines(&installation, "SELECT count(*) FROM events WHERE regexp_like(host, '(x+x+)+y')", &[]),
        ["0"],
        "regexes are linear"
    );
    let list = (0..2_500).map(|number| format!("'h{number}.absent.example'")).collect::<Vec<_>>().join(",");
    assert_eq!(lines(&installation, &format!("SELECT count(*) FROM events WHERE host IN ({list}, 'shop.example')"), &[]), ["60"]);
}

/// Asks, and asks the gate all the while.
fn ends_by_bound(installation: &Installation, running: &Running, sql: &str, reason: &str) {
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| refused(installation, sql));
        while !asked.is_finished() {
            let begun = Instant::now();
            assert!(ask_for(running.dns(), "meanwhile.invalid"), "{sql}");
            assert!(begun.elapsed() < GATE_WAIT_MAX, "the gate waits {:?} for {sql}", begun.elapsed());
            std::thread::sleep(Duration::from_millis(100));
        }
        asked.join().unwrap()
    });
    assert!(asked.1 == Some(3) && asked.0.contains(reason), "{sql}: {asked:?}");
    let left = children(running.process_id()).into_iter().filter(|line| line.contains("query-worker")).collect::<Vec<_>>();
    assert!(left.is_empty(), "{left:?}");
}

/// Another engine reads the same files.
#[test]
fn duckdb_reads_the_same_from_the_files() {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none() {
        eprintln!("skipped: SEKISHO_TEST_SYSTEM=1 is not set");
        return;
    }
    if !Command::new("python3").args(["-c", "import duckdb"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: python3 has no duckdb");
        return;
    }
    let (installation, now) = (Installation::new(), now());
    let events = (0..5_000).map(|number| {
        name(&format!("h{}.example", number % 97), number as u32 % 13, "allowed", now.plus_micros(-number * MINUTE))
    });
    installation.record(events.collect(), Vec::new());
    for sql in [
        "SELECT host, count(*) AS n, count(DISTINCT user_name) AS u FROM events GROUP BY host ORDER BY n DESC, host LIMIT 50",
        "SELECT class_uid, disposition, count(*) AS n, min(event_id) AS a, max(event_id) AS b FROM events GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT user_name, count(*) FILTER (WHERE host LIKE 'h1%') AS n FROM events GROUP BY 1 ORDER BY 1",
    ] {
        let files = installation.data().join("events/events/*/*/*.parquet");
        let script = "import duckdb, sys, csv\nc = duckdb.connect()\nc.execute(\"CREATE VIEW events AS SELECT * FROM read_parquet(?)\".replace('?', repr(sys.argv[1])))\n\
                      for row in c.execute(sys.argv[2]).fetchall(): print(','.join(str(x) for x in row))";
        let output = Command::new("python3").args(["-c", script]).arg(&files).arg(sql).output().unwrap();
        let theirs = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(!theirs.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(lines(&installation, sql, &[]), theirs, "{sql}");
    }
}
