//! The binary: configuration, supervision, reload, drain, and the commands. What a command does stands in `commands`.
#![deny(unsafe_code)]

mod admin;
mod authority;
mod commands;
mod config;
mod control;
mod demo;
mod feeds;
mod fingerprint;
mod gates;
mod knowledge;
mod lists;
mod notices;
mod operations;
mod policy_store;
mod shield;
mod trust;
mod up;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Where the data is when no folder is named.
const DATA_DEFAULT: &str = "sekisho-data";

/// A self-hosted security edge: DNS, web and TCP services through one checkpoint, one policy, one searchable record.
#[derive(Parser)]
#[command(name = "sekisho", version, about, subcommand_required = false)]
struct Arguments {
    /// Folder of the installation: CA, policy revisions, events.
    #[arg(long, global = true, default_value = DATA_DEFAULT)]
    data: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything on this machine (the default).
    Up(up::UpArguments),
    /// Does it run, on which policy, and how is the record?
    Status(commands::status::StatusArguments),
    /// Read the configuration and the policy documents, and say what is wrong with them.
    Check(commands::policy::CheckArguments),
    /// Make these policy documents the policy.
    Apply(commands::policy::ApplyArguments),
    /// Revisions of the policy.
    Policy(commands::policy::PolicyArguments),
    /// Bring a policy over from elsewhere.
    Import(commands::policy::ImportArguments),
    /// Find events by an expression in the policy's language.
    Search(commands::search::SearchArguments),
    /// Find the event of a block page's reference, or of the token that a redirect carried.
    Reference(commands::reference::ReferenceArguments),
    /// Ask the record in SQL.
    Sql(commands::sql::SqlArguments),
    /// Who ever met this domain, URL, address or file?
    Touched(commands::search::TouchedArguments),
    /// Services behind this machine: origins, live flows; cut a flow.
    Apps(commands::apps::AppsArguments),
    /// Take a user out of the record for good.
    Erase(commands::erase::EraseArguments),
    /// Why would this be decided so? Every rule that was read, and what it waited for.
    Explain(commands::explain::ExplainArguments),
    /// What would a policy have decided differently about recorded traffic?
    Replay(commands::explain::ReplayArguments),
    /// Look at files off line.
    Scan(commands::scan::ScanArguments),
    /// The certificate authority of this installation.
    Ca(authority::CaArguments),
    /// Make a proxy token for a user.
    Token(commands::token::TokenArguments),
    /// The tokens that the policy knows, and when they end.
    Tokens(commands::token::TokensArguments),
    /// Hash a user's proxy password for a policy document.
    Password(commands::token::PasswordArguments),
    /// Public lists of names, addresses, URLs and files that are known to be bad: show, add, remove, update.
    Feeds(feeds::FeedsArguments),
    /// Who is let in, who is shut out, and how much was refused.
    Shield(commands::shield::ShieldArguments),
    /// The reference of every field, as Markdown.
    Fields,
    /// Tell the whole story against origins that it starts itself, with evidence.
    Demo(demo::DemoArguments),
    /// A sandboxed scan worker; `up` starts these.
    #[command(hide = true)]
    ScanWorker,
    /// A sandboxed worker of one SQL query; `sql` starts it.
    #[command(hide = true)]
    QueryWorker,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) if commands::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sekisho: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let data = arguments.data;
    match arguments.command.unwrap_or_else(|| Command::Up(up::UpArguments::default())) {
        Command::ScanWorker => commands::scan::worker(),
        Command::QueryWorker => commands::sql::worker(),
        Command::Up(arguments) => up::run(&data, &arguments),
        Command::Status(arguments) => commands::status::status(&data, &arguments),
        Command::Check(arguments) => commands::policy::check(&data, &arguments),
        Command::Apply(arguments) => commands::policy::apply(&data, &arguments),
        Command::Policy(arguments) => commands::policy::policy(&data, &arguments),
        Command::Import(arguments) => commands::policy::import(&arguments),
        Command::Search(arguments) => commands::search::search(&data, &arguments),
        Command::Reference(arguments) => commands::reference::reference(&data, &arguments),
        Command::Sql(arguments) => commands::sql::sql(&data, &arguments),
        Command::Touched(arguments) => commands::search::touched(&data, &arguments),
        Command::Apps(arguments) => commands::apps::apps(&data, &arguments),
        Command::Erase(arguments) => commands::erase::erase(&data, &arguments),
        Command::Explain(arguments) => commands::explain::explain(&data, &arguments),
        Command::Replay(arguments) => commands::explain::replay(&data, &arguments),
        Command::Scan(arguments) => commands::scan::scan(&arguments),
        Command::Ca(arguments) => authority::run(&data, &arguments),
        Command::Token(arguments) => commands::token::token(&arguments),
        Command::Tokens(arguments) => commands::token::tokens(&data, &arguments),
        Command::Password(arguments) => commands::token::password(&arguments),
        Command::Feeds(arguments) => feeds::run(&data, arguments),
        Command::Shield(arguments) => commands::shield::shield(&data, &arguments),
        Command::Fields => commands::fields(),
        Command::Demo(arguments) => demo::run(&arguments),
    }
}
