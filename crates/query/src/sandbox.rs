//! Locks the worker down before it looks at a query: resource limits, the lowest rank before the kernel's scheduler and
//! its out-of-memory killer, no new privileges, landlock (one folder, for reading), and a seccomp list of what reading and
//! computing call. Then tries what must be denied: a worker that could write, connect or execute refuses to work.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

use crate::Error;

/// The files that some queries read at once. A lake of a year has some hundred, and readers close them as they go.
const OPEN_FILES_MAX: u64 = 4_096;
/// Behind everything that has a deadline.
const NICE: i32 = 10;
/// The newest landlock interface whose rights are handled; older kernels enforce what they know.
const LANDLOCK_ABI: ABI = ABI::V6;
/// A file that no installation lacks and that is not in a lake.
const FOREIGN_FILE: &str = "/proc/self/status";

/// What the standard library, the allocator, the engine's threads and its readers call.
#[rustfmt::skip]
const ALLOWED_CALLS: &[i64] = &[
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_write, libc::SYS_writev,
    libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_lseek, libc::SYS_close, libc::SYS_fcntl, libc::SYS_fadvise64,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_readlinkat, libc::SYS_getdents64, libc::SYS_getcwd,
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_brk, libc::SYS_madvise,
    libc::SYS_futex, libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_getrandom,
    libc::SYS_clone, libc::SYS_clone3, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_prctl, libc::SYS_prlimit64,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_getcpu,
    libc::SYS_rt_sigreturn, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigaction, libc::SYS_sigaltstack,
    libc::SYS_restart_syscall, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_tgkill, libc::SYS_exit, libc::SYS_exit_group,
];

/// Locks this process down and proves it.
pub(crate) fn enter(lake: &Path, memory_bytes: u64, processor_seconds: u64) -> Result<(), Error> {
    require_one_thread()?;
    end_with_the_host()?;
    stand_back();
    limit_resources(memory_bytes, processor_seconds)?;
    rustix::thread::set_no_new_privs(true).map_err(|error| refused("no_new_privs", &error))?;
    let is_enforced = restrict_files(lake)?;
    apply_filter(&call_filter()?).map_err(|error| refused("seccomp", &error))?;
    prove(is_enforced)
}

/// Landlock and seccomp bind the calling thread and its descendants; another thread would stay free.
fn require_one_thread() -> Result<(), Error> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(|error| refused("count threads", &error))?.count();
    match threads {
        1 => Ok(()),
        more => Err(Error::Sandbox(format!("{more} threads run, one may"))),
    }
}

fn refused(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Sandbox(format!("{what}: {error}"))
}

/// A query whose asker is gone ends with it.
fn end_with_the_host() -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| refused("death signal", &error))
}

/// Where the kernel must choose, it chooses this process. Neither is a condition: a container may deny both.
fn stand_back() {
    let _ = rustix::process::nice(NICE);
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

fn limit_resources(memory_bytes: u64, processor_seconds: u64) -> Result<(), Error> {
    let limits = [
        (Resource::As, memory_bytes),
        (Resource::Cpu, processor_seconds),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nofile, OPEN_FILES_MAX),
    ];
    for (resource, value) in limits {
        // A lower bound that is already set stays.
        let bound = rustix::process::getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
        let limit = Rlimit { current: Some(bound), maximum: Some(bound) };
        setrlimit(resource, limit).map_err(|error| refused("resource limit", &error))?;
    }
    Ok(())
}

/// Handles every right and allows one: to read below the lake. True where the kernel enforces it.
fn restrict_files(lake: &Path) -> Result<bool, Error> {
    let folder = PathFd::new(lake).map_err(|error| refused("landlock", &error))?;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK_ABI))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(LANDLOCK_ABI)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(LANDLOCK_ABI)))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(PathBeneath::new(folder, AccessFs::ReadFile | AccessFs::ReadDir)))
        .and_then(|ruleset| ruleset.restrict_self())
        .map_err(|error| refused("landlock", &error))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Everything not listed fails with EPERM, so that a library that tries something gets an error and not a kill.
fn call_filter() -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED_CALLS.iter().map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![zero_in(2, libc::PROT_EXEC)?]);
    }
    let writing = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
    rules.insert(libc::SYS_openat, vec![zero_in(2, writing)?]);
    let arch = std::env::consts::ARCH.try_into().map_err(|error| refused("seccomp", &error))?;
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch).map_err(|error| refused("seccomp", &error))?;
    filter.try_into().map_err(|error: seccompiler::BackendError| refused("seccomp", &error))
}

/// The argument has none of these bits.
fn zero_in(argument: u8, bits: i32) -> Result<SeccompRule, Error> {
    let mask = SeccompCmpOp::MaskedEq(u64::from(bits.unsigned_abs()));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, mask, 0)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| refused("seccomp", &error))
}

/// Tries to write, connect and execute, and to read elsewhere where landlock is there to deny it. Each must fail for lack
/// of permission and for no other reason.
fn prove(is_landlocked: bool) -> Result<(), Error> {
    let write = std::fs::File::options().append(true).open("/dev/null").err();
    let read = std::fs::File::open(FOREIGN_FILE).err();
    let connect = std::net::TcpStream::connect(("127.0.0.1", 9)).err();
    let socket = std::os::unix::net::UnixDatagram::unbound().err();
    let execute = Some(std::process::Command::new("/bin/true").exec());
    let tried = [("write", write), ("connect", connect), ("socket", socket), ("execute", execute)];
    for (what, outcome) in tried.into_iter().chain(is_landlocked.then_some(("read", read))) {
        if outcome.is_none_or(|error| error.kind() != std::io::ErrorKind::PermissionDenied) {
            return Err(Error::Sandbox(format!("{what} is not denied")));
        }
    }
    Ok(())
}
