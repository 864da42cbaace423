//! Commands about hosts.

use tranche_api::request::{Along, Nothing};
use tranche_api::view::HostView;
use tranche_core::name::HostName;
use tranche_core::spec::HostPart;

use super::{Daemon, change, departure};
use crate::cli::{Doing, HostCommand};
use crate::failure::{Exit, Failure};
use crate::output::Hosts;

pub(super) fn run(command: HostCommand, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    match command {
        HostCommand::List => daemon.show(&Hosts(daemon.client.get("/hosts")?)),
        HostCommand::Show { host } => {
            let hosts: Vec<HostView> = match host {
                Some(host) => vec![daemon.client.get(&format!("/hosts/{host}"))?],
                None => daemon.client.get("/hosts")?,
            };
            daemon.show(hosts.as_slice())
        }
        HostCommand::Drain { hosts, one_by_one: true, doing } => {
            for host in &hosts {
                let exit = at_once(std::slice::from_ref(host), "drain", doing, daemon)?;
                if exit != Exit::Done {
                    return Ok(exit);
                }
            }
            Ok(Exit::Done)
        }
        HostCommand::Drain { hosts, one_by_one: false, doing } => at_once(&hosts, "drain", doing, daemon),
        HostCommand::Undrain { hosts, doing } => at_once(&hosts, "undrain", doing, daemon),
        HostCommand::Depart(args) => departure::run(&args, daemon),
        HostCommand::Stay { host, doing } => to(&host, "stay", &Nothing {}, doing, daemon),
        HostCommand::ConfirmDown { host, doing } => to(&host, "confirm-down", &Nothing {}, doing, daemon),
        HostCommand::Set(args) => {
            change::patch(&format!("/hosts/{}", args.host), &HostPart::from(args.wished), args.doing, daemon)
        }
    }
}

/// Does something to all these hosts in one change.
fn at_once(hosts: &[HostName], what: &str, doing: Doing, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let Some((host, others)) = hosts.split_first() else { return Ok(Exit::Done) };
    to(host, what, &Along { along: others.iter().cloned().collect() }, doing, daemon)
}

fn to(
    host: &HostName,
    what: &str,
    body: &impl serde::Serialize,
    doing: Doing,
    daemon: &Daemon<'_>,
) -> Result<Exit, Failure> {
    change::post(&format!("/hosts/{host}/{what}"), body, doing, daemon)
}
