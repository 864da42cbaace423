//! Commands about VMs.

use std::fs;
use std::path::Path;

use hyper::Method;
use tranche_api::request::{
    AttachGpu, CreateVm, DetachGpu, HandOverVm, InviteVm, MigrateVm, Nothing, RestartVm, StopVm, TakeVm,
};
use tranche_api::view::{InvitationMade, InvitationView, VmView};
use tranche_core::change::AdoptedVm;
use tranche_core::migration::Outlook;
use tranche_core::name::VmName;
use tranche_core::spec::{CLOUD_INIT_LEN_MAX, VmHardware, VmPart};

use super::{Daemon, access, change, console, history};
use crate::argument::Destination;
use crate::cli::{CreateArgs, Doing, VmCommand};
use crate::failure::{Exit, Failure};

pub(super) fn run(command: VmCommand, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    match command {
        VmCommand::Create(args) => {
            let doing = args.doing;
            change::post("/vms", &creation(args)?, doing, daemon)
        }
        VmCommand::Adopt(args) => {
            let body = AdoptedVm {
                request: args.gpu,
                reserved: args.reserved,
                prefer_numa_node: args.numa_node,
                labels: args.labels.into_iter().collect(),
                availability: args.care.into(),
            };
            change::post(&path(&args.name, "/adopt"), &body, args.doing, daemon)
        }
        VmCommand::Set { name, wished, doing } => {
            change::patch(&path(&name, ""), &VmPart::from(wished), doing, daemon)
        }
        VmCommand::Start { name, doing } => change::post(&path(&name, "/start"), &Nothing {}, doing, daemon),
        VmCommand::Stop { name, force, doing } => {
            change::post(&path(&name, "/stop"), &StopVm { force }, doing, daemon)
        }
        VmCommand::Restart { name, force, doing } => {
            change::post(&path(&name, "/restart"), &RestartVm { force }, doing, daemon)
        }
        VmCommand::Migrate { name, to: Some(Destination::Url(to)), token, doing } => {
            hand_over(&name, Some(to), token, doing, daemon)
        }
        VmCommand::Migrate { name, to: None, token: Some(token), doing } => {
            hand_over(&name, None, Some(token), doing, daemon)
        }
        VmCommand::Migrate { name, to, token: None, doing } => {
            let to = to.and_then(Destination::into_host);
            let exit = change::post(&path(&name, "/migrate"), &MigrateVm { to }, doing, daemon)?;
            // Whoever looks before he leaps wants to see all the other sides.
            if doing.dry_run && daemon.console.is_for_people() {
                daemon.console.print(b"\n")?;
                destinations(&name, daemon)?;
            }
            Ok(exit)
        }
        VmCommand::Migrate { token: Some(_), .. } => Err(Failure::TokenForMember),
        VmCommand::Invite { minutes } => {
            let asked = InviteVm { minutes };
            daemon.show(&daemon.client.send::<InvitationMade>(Method::POST, "/invitations", Some(&asked))?)
        }
        VmCommand::Invitations => {
            daemon.show(daemon.client.get::<Vec<InvitationView>>("/invitations")?.as_slice())
        }
        VmCommand::Uninvite { id, doing } => change::delete(&format!("/invitations/{id}"), doing, daemon),
        VmCommand::TakeBack { name, force, doing } => {
            change::post(&path(&name, "/take-back"), &TakeVm { force }, doing, daemon)
        }
        VmCommand::TakeOver { name, force, doing } => {
            change::post(&path(&name, "/take-over"), &TakeVm { force }, doing, daemon)
        }
        VmCommand::Destinations { name } => destinations(&name, daemon),
        VmCommand::Delete { name, force, doing } => {
            let path = path(&name, if force { "?force=true" } else { "" });
            change::delete(&path, doing, daemon)
        }
        VmCommand::List { labels } => {
            let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
            let all = if labels.is_empty() { String::new() } else { format!("?label={}", labels.join(",")) };
            daemon.show(daemon.client.list::<Vec<VmView>>(&format!("/vms{all}"))?.as_slice())
        }
        VmCommand::Show { name } => daemon.show(&daemon.client.get::<VmView>(&path(&name, ""))?),
        VmCommand::History { name, part, host } => {
            history::show(&path(&name, ""), part, host.as_ref(), daemon)
        }
        VmCommand::Attach(args) => {
            let body = AttachGpu { request: args.gpu, restart: args.restart };
            change::post(&path(&args.name, "/attach"), &body, args.doing, daemon)
        }
        VmCommand::Detach { name, restart, doing } => {
            change::post(&path(&name, "/detach"), &DetachGpu { restart }, doing, daemon)
        }
        VmCommand::Console { name, force } => console::open(&name, force, daemon),
    }
}

/// Hands a VM over to a host that is in no cluster.
fn hand_over(
    name: &VmName,
    to: Option<String>,
    token: Option<String>,
    doing: Doing,
    daemon: &Daemon<'_>,
) -> Result<Exit, Failure> {
    let token = match token.as_deref() {
        None => return Err(Failure::NoToken),
        Some("-") => access::secret_from_stdin()?.0,
        Some(token) => token.to_owned(),
    };
    let (path, asked) = (path(name, "/handover"), HandOverVm { to, token });
    if doing.dry_run {
        let outlook: Outlook = daemon.client.send(Method::POST, &change::dry(&path), Some(&asked))?;
        return daemon.show([outlook].as_slice());
    }
    change::post(&path, &asked, doing, daemon)
}

fn destinations(name: &VmName, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    daemon.show(daemon.client.get::<Vec<Outlook>>(&path(name, "/destinations"))?.as_slice())
}

fn path(name: &VmName, rest: &str) -> String {
    format!("/vms/{name}{rest}")
}

fn creation(args: CreateArgs) -> Result<CreateVm, Failure> {
    let cloud_init = args.cloud_init.as_deref().map(user_data).transpose()?;
    Ok(CreateVm {
        name: args.name.to_string(),
        hardware: VmHardware {
            vcpus: args.vcpus,
            memory_mib: args.memory,
            disks: args.disks,
            networks: args.networks,
            firmware: args.firmware.into(),
            guest_os: args.guest_os,
            cloud_init,
        },
        request: args.gpu,
        reserved: args.reserved,
        labels: args.labels.into_iter().collect(),
        prefer_numa_node: args.numa_node,
        availability: args.care.into(),
    })
}

fn user_data(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path).map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    if text.len() > CLOUD_INIT_LEN_MAX {
        let (path, len_bytes) = (path.to_owned(), text.len());
        return Err(Failure::TooLong { path, len_bytes, max_bytes: CLOUD_INIT_LEN_MAX });
    }
    Ok(text)
}
