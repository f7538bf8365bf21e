//! The program as a test runs it: on free ports, with its log in a file, ended when dropped.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sekisho");
/// A reload is asked for and carried out by another thread.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Workers load rules, and another test may have the cores.
const START_SECONDS_MAX: Duration = Duration::from_secs(60);

pub struct Running {
    child: Child,
    pub folder: PathBuf,
    pub ready: serde_json::Value,
    /// Removed after the program has ended.
    kept: Option<tempfile::TempDir>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// In a folder that goes with the program.
    pub fn start(folder: tempfile::TempDir, config: &str) -> Running {
        let path = folder.path().to_owned();
        let mut running = Running::start_in(&path, config);
        running.kept = Some(folder);
        running
    }

    /// In a folder that stays.
    pub fn start_in(folder: &Path, config: &str) -> Running {
        let (config_path, ready) = (folder.join("sekisho.toml"), folder.join("ready.json"));
        std::fs::write(&config_path, config).unwrap();
        let _ = std::fs::remove_file(&ready);
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let mut program = Command::new(PROGRAM);
        program.arg("--data").arg(folder.join("data")).args(["up", "--ephemeral-ports", "--config"]).arg(&config_path);
        program.arg("--ready-file").arg(&ready).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = program.spawn().unwrap();
        let mut running = Running { child, folder: folder.to_owned(), ready: serde_json::Value::Null, kept: None };
        let until = Instant::now() + START_SECONDS_MAX;
        while !ready.exists() {
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "does not come up ({ended:?}): {}", running.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        running.ready = serde_json::from_str(&std::fs::read_to_string(&ready).unwrap()).unwrap();
        running
    }

    /// Stops it as a service manager would.
    pub fn stop(&mut self) {
        self.signal("TERM");
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }

    pub fn signal(&self, name: &str) {
        let told = Command::new("kill").args([&format!("-{name}"), &self.process_id().to_string()]).status();
        assert!(told.unwrap().success());
    }

    /// Asks for a reload with this configuration, and waits until the log tells the outcome.
    pub fn reload(&self, config: &str, told: &str) {
        std::fs::write(self.folder.join("sekisho.toml"), config).unwrap();
        let before = self.log().matches(told).count();
        self.signal("HUP");
        wait_until(&format!("no `{told}`"), || self.log().matches(told).count() > before);
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn address(&self, gate: &str, protocol: &str) -> SocketAddr {
        let rows = self.ready["listeners"].as_array().unwrap();
        let row = rows.iter().find(|row| row["gate"] == gate && row["protocol"] == protocol).unwrap();
        row["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn proxy(&self) -> SocketAddr {
        self.address("web", "http")
    }

    pub fn dns(&self) -> SocketAddr {
        self.address("dns", "udp")
    }

    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM).arg("--data").arg(self.data()).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command prints, on both streams.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// What a command prints that must succeed.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Writes a policy document and applies it.
    pub fn apply(&self, document: &str) -> String {
        let path = self.folder.join("applied.toml");
        std::fs::write(&path, document).unwrap();
        self.must(&["apply", path.to_str().unwrap()])
    }
}

/// One plain request that asks for the connection to be closed, raw; the answer, as far as it came.
pub fn exchange(server: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A refused download is reset (AV-06).
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
