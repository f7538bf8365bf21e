//! `shield`: who is let in, who is shut out, and how much was refused.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde_json::Value as Json;

use super::{ask, seconds};
use crate::operations::Request;

#[derive(Args)]
pub struct ShieldArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Listeners with what they admitted and refused, bans, and the busiest sources.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Refuse every connection from an address or a network for a while.
    Ban {
        /// 203.0.113.7, 203.0.113.0/24 or 2001:db8::/48.
        network: String,
        /// 90s, 15m, 24h, 7d or 2w.
        #[arg(long = "for", default_value = "1h")]
        length: String,
    },
    /// Lift bans of this network and of everything in it.
    Unban { network: String },
    /// Send a notice that says that it is a test, to try whether notices arrive.
    TestNotice,
}

pub fn shield(data: &Path, arguments: &ShieldArguments) -> Result<ExitCode> {
    match &arguments.action {
        Action::Status { json } => {
            let answer = ask(data, Request::ShieldStatus)?;
            match json {
                true => println!("{answer}"),
                false => print!("{}", table(&answer)),
            }
        }
        Action::Ban { network, length } => {
            let seconds = seconds(length).filter(|seconds| *seconds > 0);
            let seconds = seconds.with_context(|| format!("`{length}` is no length of time; write 90s, 15m, 24h, 7d or 2w"))?;
            let answer = ask(data, Request::ShieldBan { network: network_of(network)?, seconds })?;
            println!("{} is banned until {}", word(&answer["network"]), word(&answer["until"]));
        }
        Action::TestNotice => {
            ask(data, Request::ShieldTestNotice)?;
            println!("handed over; the log says whether it was sent");
        }
        Action::Unban { network } => {
            let answer = ask(data, Request::ShieldUnban { network: network_of(network)? })?;
            ensure!(answer["lifted"] != 0, "nothing in {network} is banned; `sekisho shield status` lists what is");
            println!("{} bans lifted", answer["lifted"]);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A network, or an address as the network of itself.
fn network_of(text: &str) -> Result<IpNet> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    network.ok().with_context(|| format!("`{text}` is neither an address nor a network such as 203.0.113.0/24"))
}

fn table(answer: &Json) -> String {
    let mut text = format!("mode {}, {} sources known, {} bans\n", word(&answer["mode"]), answer["sources"], answer["bans"]);
    text.push_str(&format!("\n{:<6}{:<13}{:<24}{:>8}{:>12}  refused\n", "gate", "listener", "address", "open", "admitted"));
    for row in rows(&answer["listeners"]) {
        let refused = row["refused"].as_object().into_iter().flatten().filter(|(_, count)| *count != 0);
        let refused: Vec<String> = refused.map(|(reason, count)| format!("{reason} {count}")).collect();
        let (gate, door, address) = (word(&row["gate"]), word(&row["door"]), word(&row["address"]));
        let refused = if refused.is_empty() { "none".to_owned() } else { refused.join(", ") };
        text.push_str(&format!(
            "{gate:<6}{door:<13}{address:<24}{:>8}{:>12}  {refused}\n",
            row["open"].to_string(),
            row["admitted"].to_string()
        ));
    }
    for (title, key) in [("bans", "longest_bans"), ("busiest sources", "busiest")] {
        let rows = rows(&answer[key]);
        if !rows.is_empty() {
            text.push_str(&format!("\n{title}\n"));
        }
        for row in rows {
            match key {
                "busiest" => {
                    text.push_str(&format!("  {:<44}open {}, refused {}\n", word(&row["source"]), row["open"], row["refused"]))
                }
                _ => text.push_str(&format!(
                    "  {:<44}until {} by the {}\n",
                    word(&row["network"]),
                    word(&row["until"]),
                    word(&row["by"])
                )),
            }
        }
    }
    packets(&answer["packets"], &mut text);
    text
}

/// The packet path, where there is one or one was asked for.
fn packets(answer: &Json, text: &mut String) {
    if let Some(trouble) = answer["trouble"].as_str() {
        text.push_str(&format!("\npackets are not looked at: {trouble}\n"));
    }
    for interface in rows(&answer["interfaces"]) {
        text.push_str(&format!("\npackets of {}, {}\n", word(&interface[0]), word(&interface[1])));
    }
    if let Some(sflow) = answer["sflow"].as_object() {
        let counts: Vec<String> = sflow.iter().map(|(what, count)| format!("{what} {count}")).collect();
        text.push_str(&format!("\nsFlow: {}\n", counts.join(", ")));
    }
    for count in rows(&answer["packets"]).iter().filter(|count| count[1] != 0) {
        text.push_str(&format!("  {:<16}{:>14}\n", word(&count[0]), count[1]));
    }
    for rule in rows(&answer["rules"]) {
        let verb = if rule["is_enforced"] == true { "drops" } else { "would drop" };
        text.push_str(&format!(
            "  rule {}: {verb}, {} hits, {} s left\n",
            word(&rule["rule"]),
            rule["hits"],
            rule["seconds_left"]
        ));
    }
    for incident in rows(&answer["incidents"]) {
        let state = if incident["has_ended"] == true { "ended" } else { "goes on" };
        let (target, kind, peak) = (word(&incident["target"]), word(&incident["kind"]), &incident["peak_packets_per_second"]);
        text.push_str(&format!("  attack on {target} by {kind}, {state}, peak {peak} packets/s\n"));
        for line in rows(&incident["timeline"]) {
            text.push_str(&format!("    {:>8} ms  {}\n", line["milliseconds"], word(&line["what"])));
        }
    }
}

fn rows(value: &Json) -> &[Json] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn word(value: &Json) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_networks_of_one() -> Result<()> {
        assert_eq!(network_of("203.0.113.7")?.to_string(), "203.0.113.7/32");
        assert_eq!(network_of("2001:db8::/48")?.to_string(), "2001:db8::/48");
        assert!(network_of("example.com").is_err_and(|error| error.to_string().contains("example.com")));
        Ok(())
    }
}
