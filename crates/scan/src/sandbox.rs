//! Locks the worker down after its definitions are loaded: resource limits, no new privileges, landlock (no file, no
//! network), and a seccomp list of the system calls that scanning needs. Then tries what must be denied. A worker that
//! could open, connect or execute refuses to work.

use crate::Error;
use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;

/// Socket, standard streams and one file at a time.
const OPEN_FILES_MAX: u64 = 16;
/// The newest landlock interface whose rights are handled; older kernels enforce what they know.
const LANDLOCK_ABI: ABI = ABI::V6;

/// What the standard library, the allocator and the parsers call once everything is loaded.
#[rustfmt::skip]
const ALLOWED_CALLS: &[i64] = &[
    libc::SYS_read, libc::SYS_write, libc::SYS_pread64, libc::SYS_lseek, libc::SYS_close,
    libc::SYS_recvmsg, libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_sendmsg,
    libc::SYS_fstat, libc::SYS_statx, libc::SYS_fcntl,
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_brk, libc::SYS_madvise,
    libc::SYS_futex, libc::SYS_clock_gettime, libc::SYS_getrandom, libc::SYS_sched_yield,
    libc::SYS_rt_sigreturn, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigaction, libc::SYS_sigaltstack,
    libc::SYS_restart_syscall, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_tgkill,
    libc::SYS_exit, libc::SYS_exit_group,
];

/// Locks this process down and proves it. Returns how much of landlock the kernel enforces.
pub(crate) fn enter(memory_bytes: u64) -> Result<String, Error> {
    require_one_thread()?;
    limit_resources(memory_bytes)?;
    rustix::thread::set_no_new_privs(true).map_err(|error| refused("no_new_privs", &error))?;
    let landlock = restrict_objects()?;
    apply_filter(&call_filter()?).map_err(|error| refused("seccomp", &error))?;
    prove()?;
    Ok(landlock)
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

fn limit_resources(memory_bytes: u64) -> Result<(), Error> {
    for (resource, value) in
        [(Resource::As, memory_bytes), (Resource::Fsize, 0), (Resource::Core, 0), (Resource::Nofile, OPEN_FILES_MAX)]
    {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(resource, limit).map_err(|error| refused("resource limit", &error))?;
    }
    Ok(())
}

/// Handles every right and allows none.
fn restrict_objects() -> Result<String, Error> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK_ABI))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(LANDLOCK_ABI)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(LANDLOCK_ABI)))
        .and_then(Ruleset::create)
        .map_err(|error| refused("landlock", &error))?;
    let status = ruleset.restrict_self().map_err(|error| refused("landlock", &error))?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    }
    .to_owned())
}

/// Everything not listed fails with EPERM, so that a library that tries something gets an error and not a kill.
fn call_filter() -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED_CALLS.iter().map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![without_executable_pages()?]);
    }
    let arch = std::env::consts::ARCH.try_into().map_err(|error| refused("seccomp", &error))?;
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch).map_err(|error| refused("seccomp", &error))?;
    filter.try_into().map_err(|error: seccompiler::BackendError| refused("seccomp", &error))
}

/// The third argument of mmap and mprotect must not ask for execution.
fn without_executable_pages() -> Result<SeccompRule, Error> {
    const PROTECTION_ARGUMENT: u8 = 2;
    let mask = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    SeccompCondition::new(PROTECTION_ARGUMENT, SeccompCmpArgLen::Dword, mask, 0)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| refused("seccomp", &error))
}

/// Tries to open, connect and execute. Each must fail for lack of permission and for no other reason.
fn prove() -> Result<(), Error> {
    let open = std::fs::File::open("/").err();
    let connect = std::net::TcpStream::connect(("127.0.0.1", 9)).err();
    let socket = std::os::unix::net::UnixDatagram::unbound().err();
    let execute = Some(std::process::Command::new("/bin/true").exec());
    for (what, outcome) in [("open", open), ("connect", connect), ("socket", socket), ("execute", execute)] {
        let is_denied = outcome.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
        if !is_denied {
            return Err(Error::Sandbox(format!("{what} is not denied")));
        }
    }
    Ok(())
}
