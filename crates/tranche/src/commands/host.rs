//! Commands about hosts.

use tranche_api::request::{Nothing, SetHost};
use tranche_api::view::HostView;
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;

use super::{Daemon, change, departure};
use crate::cli::{Doing, HostArgs, HostCommand};
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
        HostCommand::Drain { hosts, doing } => each(&hosts, "drain", doing, daemon),
        HostCommand::Undrain { hosts, doing } => each(&hosts, "undrain", doing, daemon),
        HostCommand::Depart(args) => departure::run(&args, daemon),
        HostCommand::Stay { host, doing } => each(&[host], "stay", doing, daemon),
        HostCommand::ConfirmDown { host, doing } => each(&[host], "confirm-down", doing, daemon),
        HostCommand::Set(args) => {
            let (path, doing) = (format!("/hosts/{}", args.host), args.doing);
            change::put(&path, &settings(args), doing, daemon)
        }
    }
}

/// Does something to one host after the other; ends at the first with which it does not come to its end.
fn each(hosts: &[HostName], what: &str, doing: Doing, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    for host in hosts {
        let exit = change::post(&format!("/hosts/{host}/{what}"), &Nothing {}, doing, daemon)?;
        if exit != Exit::Done {
            return Ok(exit);
        }
    }
    Ok(Exit::Done)
}

fn settings(args: HostArgs) -> SetHost {
    let options = args.fence_options.into_iter().collect();
    SetHost {
        labels: args.labels.into_iter().collect(),
        fence: args.fence_agent.map(|agent| FenceSpec { agent, options }),
        reserved_memory_mib: args.reserve_memory.unwrap_or_default(),
    }
}
