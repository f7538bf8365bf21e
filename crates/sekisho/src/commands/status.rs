//! `status`: whether it runs, on which policy, and how the event store is.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::ask;
use crate::control;
use crate::operations::Request;

#[derive(Args)]
pub struct StatusArguments {
    #[arg(long)]
    json: bool,
}

/// Exit codes: 0 runs, 3 does not run (the data answers in its place).
pub fn status(data: &Path, arguments: &StatusArguments) -> Result<ExitCode> {
    let runs = std::os::unix::net::UnixStream::connect(control::socket_path(data)).is_ok();
    let mut answer = ask(data, Request::Status)?;
    answer["running"] = runs.into();
    if arguments.json {
        println!("{answer}");
    } else {
        println!("{}", if runs { "running" } else { "not running" });
        println!("{:<30}{}", "policy revision", answer["policy_revision"]);
        for (name, value) in answer["store"].as_object().into_iter().flatten() {
            println!("store {:<24}{value}", name.replace('_', " "));
        }
    }
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
