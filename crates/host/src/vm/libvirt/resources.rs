//! What VMs use by name: storage pools and networks.
//!
//! They change by hand and seldom, so they are asked for less often than domains. Where libvirt has no daemon for them,
//! nothing is known of them, and domains are observed all the same.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tranche_core::inventory::{Network, Resources, StoragePool};
use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::storage_pool::StoragePool as Pool;

use crate::vm::{shared, xml};

/// How long an answer serves: as long as a person waits who has just started a pool.
pub(super) const AGE_MAX: Duration = Duration::from_secs(10);

/// The mounts that this process sees.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Asks for all of them.
pub(super) fn read(connect: &Connect) -> Option<Resources> {
    let told = pools(connect).and_then(|pools| Ok(Resources { pools, networks: networks(connect)? }));
    told.inspect_err(|error| {
        tracing::debug!(error = error.message(), "libvirt does not tell of pools and networks");
    })
    .ok()
}

fn pools(connect: &Connect) -> Result<BTreeMap<String, StoragePool>, Error> {
    let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
    let mut pools = BTreeMap::new();
    for pool in connect.list_all_storage_pools(0)? {
        // It went away between the list and the question.
        if let Some((name, pool)) = present(read_pool(&pool, &mounts), ErrorNumber::NoStoragePool)? {
            pools.insert(name, pool);
        }
    }
    Ok(pools)
}

fn read_pool(pool: &Pool, mounts: &str) -> Result<(String, StoragePool), Error> {
    let text = pool.get_xml_desc(0)?;
    // What cannot be read is of no known kind, and so not shared.
    let (kind, path) = xml::read_pool(&text).unwrap_or_default();
    let shared = shared::is_shared(&kind, path.as_deref(), mounts);
    Ok((pool.get_name()?, StoragePool { kind, path, active: pool.is_active()?, shared }))
}

fn networks(connect: &Connect) -> Result<BTreeMap<String, Network>, Error> {
    let mut networks = BTreeMap::new();
    for network in connect.list_all_networks(0)? {
        let told = network.get_name().and_then(|name| Ok((name, Network { active: network.is_active()? })));
        if let Some((name, network)) = present(told, ErrorNumber::NoNetwork)? {
            networks.insert(name, network);
        }
    }
    Ok(networks)
}

fn present<T>(told: Result<T, Error>, gone: ErrorNumber) -> Result<Option<T>, Error> {
    match told {
        Err(error) if error.code() == gone => Ok(None),
        told => told.map(Some),
    }
}
