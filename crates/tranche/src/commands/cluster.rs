//! What commands about the cluster do.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use hyper::Method;
use tranche_api::cluster::{
    ClusterStanding, ClusterView, CreateToken, InitCluster, JoinCluster, ReplaceMember, TokenCreated,
};
use tranche_api::request::Nothing;
use tranche_core::homogeneity::Report;
use tranche_core::upgrade::UpgradePlan;

use super::{Daemon, access, change};
use crate::cli::{ClusterCommand, TokenCommand};
use crate::client::ClientError;
use crate::failure::{Exit, Failure};

/// Between two questions how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long the way in or out is waited for: as long as the daemon may wait for etcd on it, which is three times five minutes.
const LONGEST: Duration = Duration::from_secs(16 * 60);
/// The largest backup that is read, in bytes, as the daemon has it.
const BACKUP_LEN_MAX: usize = 256 << 20;

/// Does what the command line says.
pub(super) fn run(command: ClusterCommand, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let client = daemon.client;
    match command {
        ClusterCommand::Init { name, at } => {
            let asked = InitCluster { name: Some(name), address: at.address };
            set_out("/cluster/init", &asked, "begin a cluster", ClusterStanding::Member, daemon)
        }
        ClusterCommand::Join { token, at } => {
            let token = if token == "-" { access::secret_from_stdin()?.0 } else { token };
            let asked = JoinCluster { token, address: at.address };
            set_out("/cluster/join", &asked, "join the cluster", ClusterStanding::Member, daemon)
        }
        ClusterCommand::Leave => {
            let nothing = serde_json::Map::new();
            set_out("/cluster/leave", &nothing, "leave the cluster", ClusterStanding::Alone, daemon)
        }
        ClusterCommand::Remove { host, forget_vms, dry_run } => {
            let path = format!("/cluster/members/{host}?forget_vms={forget_vms}&dry_run={dry_run}");
            daemon.show(&client.send::<ClusterView>(Method::DELETE, &path, None::<&()>)?)
        }
        ClusterCommand::Replace { host, forget_vms, ttl } => {
            let asked = ReplaceMember { host, ttl_s: Some(ttl.as_secs()), forget_vms };
            daemon.show(&client.send::<TokenCreated>(Method::POST, "/cluster/replace", Some(&asked))?)
        }
        ClusterCommand::Homogeneity => {
            let report: Report = client.get("/homogeneity")?;
            daemon.console.show(&report)?;
            Ok(if report.homogeneous { Exit::Done } else { Exit::Found })
        }
        ClusterCommand::Status => daemon.show(&client.get::<ClusterView>("/cluster")?),
        ClusterCommand::Token(TokenCommand::Create { ttl }) => {
            let asked = CreateToken { ttl_s: Some(ttl.as_secs()) };
            daemon.show(&client.send::<TokenCreated>(Method::POST, "/cluster/tokens", Some(&asked))?)
        }
        ClusterCommand::Backup { file } => {
            let backup: serde_json::Value = client.get("/cluster/backup")?;
            let text = serde_json::to_vec_pretty(&backup)
                .map_err(|source| Failure::Print { source: source.into() })?;
            write_anew(&file, &text)?;
            Ok(Exit::Done)
        }
        ClusterCommand::Restore { file, force, at } => {
            let backup = read_backup(&file)?;
            let address = at.address.map(|address| format!("&address={address}")).unwrap_or_default();
            let path = format!("/cluster/restore?force={force}{address}");
            set_out(&path, &backup, "restore the cluster", ClusterStanding::Member, daemon)
        }
        ClusterCommand::Pause { doing } => change::post("/failover/pause", &Nothing {}, doing, daemon),
        ClusterCommand::Resume { doing } => change::post("/failover/resume", &Nothing {}, doing, daemon),
        ClusterCommand::UpgradePlan => {
            let plan: UpgradePlan = client.get("/cluster/upgrade-plan")?;
            daemon.console.show(&plan)?;
            Ok(if plan.feasible { Exit::Done } else { Exit::Found })
        }
        ClusterCommand::Capacity { without } => super::rule::capacity(&without, daemon),
        ClusterCommand::Defragment => {
            let nothing = serde_json::Map::new();
            daemon.show(&client.send::<ClusterView>(Method::POST, "/cluster/defragment", Some(&nothing))?)
        }
    }
}

/// Asks for it and waits until the host is there. Its daemon replaces itself on the way, and answers nobody meanwhile.
fn set_out(
    path: &str,
    asked: &impl serde::Serialize,
    title: &str,
    until: ClusterStanding,
    daemon: &Daemon<'_>,
) -> Result<Exit, Failure> {
    let mut view: ClusterView = daemon.client.send(Method::POST, path, Some(asked))?;
    let (began, mut progress, mut told) = (Instant::now(), daemon.console.progress(title), None);
    while view.standing != until {
        if let Some(stopped) = view.stopped {
            progress.clear();
            return Err(Failure::Stopped { title: title.to_owned(), finding: Box::new(stopped) });
        }
        if began.elapsed() >= LONGEST {
            progress.clear();
            return Err(Failure::Underway { title: title.to_owned() });
        }
        if view.doing != told {
            progress.line(view.doing.as_deref().unwrap_or("start the daemon anew"));
            told = view.doing.clone();
        }
        thread::sleep(LOOK_EVERY);
        view = match daemon.client.get("/cluster") {
            Ok(view) => view,
            Err(
                ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::Silent { .. },
            ) => view,
            Err(error) => return Err(error.into()),
        };
    }
    progress.clear();
    daemon.show(&view)
}

/// Writes a file that its owner alone can read, and none over another.
pub(super) fn write_anew(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |source| Failure::Write { what: format!("The file {}", path.display()), source };
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

fn read_backup(path: &Path) -> Result<serde_json::Value, Failure> {
    let bytes = fs::read(path).map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    if bytes.len() > BACKUP_LEN_MAX {
        let (len_bytes, max_bytes) = (bytes.len(), BACKUP_LEN_MAX);
        return Err(Failure::TooLong { path: path.to_owned(), len_bytes, max_bytes });
    }
    serde_json::from_slice(&bytes)
        .map_err(|source| Failure::Read { path: path.to_owned(), source: source.into() })
}
