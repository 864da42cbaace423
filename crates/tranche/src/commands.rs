//! What each command does.

mod access;
mod catalogue;
mod change;
mod cluster;
mod console;
mod declare;
mod departure;
mod explain;
mod gpu;
mod history;
mod host;
mod inspect;
mod rule;
mod sim;
mod support;
mod vm;

use tranche_api::answer::{Diagnosis, WhyNot};
use tranche_api::view::{HostView, PartitionView};
use tranche_core::finding::Finding;
use tranche_core::name::{HostName, VmName};
use tranche_core::operation::Operation;
use tranche_core::spec::Policy;

use crate::cli::{Cli, Command, HostCommand, OperationCommand, PartitionCommand, PolicyCommand};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output::{Console, is_grave};
use crate::{manual, wait};

/// Does what the command line says.
pub(crate) fn run(cli: Cli, console: &Console) -> Result<Exit, Failure> {
    // A host that goes down does so within a time that others have set.
    let has_time = !matches!(&cli.command, Command::Host(HostCommand::Depart(_)));
    let client = Client::new(&cli.global.socket, *console, has_time)?;
    let daemon = Daemon { client: &client, console };
    match cli.command {
        Command::Host(command) => host::run(command, &daemon),
        Command::Gpu(command) => gpu::run(command, &daemon),
        Command::Partition(PartitionCommand::List { gpu }) => {
            let gpu = gpu.map(|gpu| gpu::find(&gpu, &daemon)).transpose()?;
            let mut partitions: Vec<PartitionView> = client.list("/partitions")?;
            partitions.retain(|partition| gpu.as_ref().is_none_or(|gpu| gpu::is_of(partition, gpu)));
            daemon.show(partitions.as_slice())
        }
        Command::Catalogue(command) => catalogue::run(command, &daemon),
        Command::Vm(command) => vm::run(command, &daemon),
        Command::Cluster(command) => cluster::run(command, &daemon),
        Command::User(command) => access::user(command, &daemon),
        Command::Token(command) => access::token(command, &daemon),
        Command::Audit { limit } => access::audit(limit, &daemon),
        Command::Operation(command) => daemon.operation(command),
        Command::Findings => daemon.show(client.list::<Vec<Finding>>("/findings")?.as_slice()),
        Command::Explain { code } => explain::run(code, console),
        Command::WhyNot { vm, host } => daemon.why_not(&vm, host),
        Command::Doctor => {
            let diagnosis: Diagnosis = client.get("/doctor")?;
            console.show(&diagnosis)?;
            Ok(if diagnosis.healthy { Exit::Done } else { Exit::Found })
        }
        Command::Inspect(args) => inspect::run(&args, console),
        Command::Sim(command) => sim::run(&command, console),
        Command::Apply { declared, doing } => declare::apply(&declared, doing, &daemon),
        Command::Diff { declared } => declare::diff(&declared, &daemon),
        Command::Policy(PolicyCommand::Show) => daemon.show(&client.get::<Policy>("/policy")?),
        Command::Rule(command) => rule::run(command, &daemon),
        Command::Policy(PolicyCommand::Set { wished, doing }) => {
            let now: Policy = daemon.client.get("/policy")?;
            change::put("/policy", &wished.over(now), doing, &daemon)
        }
        Command::SupportBundle(args) => support::run(args, &daemon),
        Command::Completions { shell } => console.print(&manual::completions(shell)).map(|()| Exit::Done),
        Command::Man { directory: Some(directory) } => manual::write_pages(&directory).map(|()| Exit::Done),
        Command::Man { directory: None } => console.print(&manual::page()?).map(|()| Exit::Done),
    }
}

/// Whom to ask, and where to show the answer.
#[derive(Debug, Clone, Copy)]
struct Daemon<'a> {
    client: &'a Client,
    console: &'a Console,
}

impl Daemon<'_> {
    fn show<T: serde::Serialize + crate::output::Show + ?Sized>(&self, value: &T) -> Result<Exit, Failure> {
        self.console.show(value)?;
        Ok(Exit::Done)
    }

    fn operation(&self, command: OperationCommand) -> Result<Exit, Failure> {
        match command {
            OperationCommand::List => {
                let mut operations: Vec<Operation> = self.client.list("/operations")?;
                operations.sort_by_key(|operation| std::cmp::Reverse((operation.created_at, operation.id)));
                self.show(operations.as_slice())
            }
            OperationCommand::Show { id } => self.show(&wait::get(id, self.client)?),
            OperationCommand::Wait { id, timeout } => {
                let operation = wait::get(id, self.client)?;
                self.show(&wait::until_over(operation, timeout, self.client, self.console)?)
            }
        }
    }

    fn why_not(&self, vm: &VmName, host: Option<HostName>) -> Result<Exit, Failure> {
        let host = match host {
            Some(host) => host,
            None => self.only_host()?,
        };
        let answer: WhyNot = self.client.get(&format!("/why-not/{vm}/{host}"))?;
        self.console.show(&answer)?;
        Ok(if answer.possible && !is_grave(&answer.findings) { Exit::Done } else { Exit::Found })
    }

    fn only_host(&self) -> Result<HostName, Failure> {
        let hosts: Vec<HostView> = self.client.list("/hosts")?;
        match <[HostView; 1]>::try_from(hosts) {
            Ok([host]) => Ok(host.name),
            Err(hosts) => Err(Failure::HostNeeded {
                hosts: hosts.into_iter().map(|host| host.name.to_string()).collect(),
            }),
        }
    }
}
