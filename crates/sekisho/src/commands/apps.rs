//! `apps`: the services behind the L4 gate, how their origins are, which flows are open, and the end of one of them.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::{ask, shown};
use crate::control;
use crate::operations::Request;

#[derive(Args)]
pub struct AppsArguments {
    #[command(subcommand)]
    action: Option<AppsAction>,
    /// Only this app.
    #[arg(long)]
    app: Option<String>,
    /// List the live flows too.
    #[arg(long)]
    flows: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum AppsAction {
    /// End a flow, by its number in `apps --flows`.
    Cut { flow: String },
}

pub fn apps(data: &Path, arguments: &AppsArguments) -> Result<ExitCode> {
    let runs = std::os::unix::net::UnixStream::connect(control::socket_path(data)).is_ok();
    ensure!(runs, "nothing runs on {}, so there are no flows", data.display());
    if let Some(AppsAction::Cut { flow }) = &arguments.action {
        ask(data, Request::Cut { flow: flow.clone() })?;
        println!("cut {flow}");
        return Ok(ExitCode::SUCCESS);
    }
    let answer = ask(data, Request::Apps { app: arguments.app.clone(), flows: arguments.flows })?;
    if arguments.json {
        println!("{answer}");
    } else {
        print!("{}", table(&answer));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(answer: &Json) -> String {
    let text = |value: &Json| shown(value.as_str().unwrap_or("-"));
    let mut page = format!("{:<20}{:>8}  {:<28}{:>7}{:>8}  {}\n", "app", "flows", "origin", "weight", "flows", "health");
    for app in answer["apps"].as_array().into_iter().flatten() {
        let origins = app["origins"].as_array().map(Vec::as_slice).unwrap_or_default();
        if origins.is_empty() {
            page.push_str(&format!("{:<20}{:>8}  not resolved yet\n", text(&app["app"]), app["flows"]));
        }
        for origin in origins {
            let health = if origin["healthy"] == true { "healthy" } else { "passed over" };
            let (address, weight, flows) = (text(&origin["address"]), &origin["weight"], &origin["flows"]);
            page.push_str(&format!(
                "{:<20}{:>8}  {address:<28}{weight:>7}{flows:>8}  {health}\n",
                text(&app["app"]),
                app["flows"]
            ));
        }
    }
    let Some(flows) = answer["flows"].as_array() else { return page };
    let head = ["flow", "app", "client", "origin"];
    page.push_str(&format!("\n{:<18}{:<20}{:<28}{:<28}", head[0], head[1], head[2], head[3]));
    page.push_str(&format!("{:>8}{:>14}{:>14}{:>12}\n", "seconds", "bytes out", "bytes in", "bytes/s"));
    for flow in flows {
        let (id, app, client, origin) = (text(&flow["id"]), text(&flow["app"]), text(&flow["client"]), text(&flow["origin"]));
        page.push_str(&format!("{id:<18}{app:<20}{client:<28}{origin:<28}"));
        let (seconds, out, into, rate) = (&flow["seconds"], &flow["bytes_out"], &flow["bytes_in"], &flow["bytes_per_second"]);
        page.push_str(&format!("{seconds:>8}{out:>14}{into:>14}{rate:>12}\n"));
    }
    page
}
