//! `erase`: takes one user out of the record. It changes no policy and no token; those name the user until they are edited.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::ask;
use crate::operations::Request;

#[derive(Args)]
pub struct EraseArguments {
    /// E-mail address of the user, as events name it.
    #[arg(long)]
    user: String,
    /// Do it: what is erased cannot be brought back.
    #[arg(long)]
    yes: bool,
}

pub fn erase(data: &Path, arguments: &EraseArguments) -> Result<ExitCode> {
    let user = arguments.user.trim();
    anyhow::ensure!(!user.is_empty(), "name a user with --user");
    anyhow::ensure!(arguments.yes, "every event and sighting of {user} would be erased for good; add --yes to do it");
    let erased = ask(data, Request::Erase { user: user.to_owned() })?;
    println!(
        "{} events and {} sightings erased, {} files rewritten or removed",
        erased["events"], erased["sightings"], erased["files"]
    );
    Ok(ExitCode::SUCCESS)
}
