//! Commands about the catalogue.

use tranche_api::answer::Diagnosis;
use tranche_api::catalogue::CatalogueEntry;

use super::Daemon;
use crate::cli::CatalogueCommand;
use crate::failure::{Exit, Failure};
use crate::output::CatalogueSheets;

pub(super) fn run(command: CatalogueCommand, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    match command {
        CatalogueCommand::List => {
            daemon.show(daemon.client.list::<Vec<CatalogueEntry>>("/catalogue")?.as_slice())
        }
        CatalogueCommand::Show { model } => daemon.show(&CatalogueSheets(find(&model, daemon)?)),
        CatalogueCommand::Check => {
            let diagnosis: Diagnosis = daemon.client.get("/catalogue-check")?;
            daemon.show(&diagnosis)?;
            Ok(if diagnosis.healthy { Exit::Done } else { Exit::Found })
        }
    }
}

/// The model of that name, else all whose name has it in them, whatever the case.
fn find(model: &str, daemon: &Daemon<'_>) -> Result<Vec<CatalogueEntry>, Failure> {
    let mut entries: Vec<CatalogueEntry> = daemon.client.list("/catalogue")?;
    let wanted = model.to_lowercase();
    if entries.iter().any(|entry| entry.model.to_lowercase() == wanted) {
        entries.retain(|entry| entry.model.to_lowercase() == wanted);
    }
    entries.retain(|entry| entry.model.to_lowercase().contains(&wanted));
    if entries.is_empty() { Err(Failure::UnknownModel { model: model.to_owned() }) } else { Ok(entries) }
}
