//! Where pages are: the address of what a page names.

use axum::http::{HeaderMap, header};
use tranche_core::finding::{Code, Finding, Subject};
use tranche_core::name::{GpuKey, HostName, OperationId, VmName};

/// The page of a GPU.
pub(crate) fn gpu(key: &GpuKey) -> String {
    format!("/gpus/{}/{}", key.host, key.address)
}

/// The page of a VM. One that is called like the page that makes VMs is told from it by a letter that is written otherwise.
pub(crate) fn vm(name: &VmName) -> String {
    match name.as_str() {
        "new" => "/vms/%6Eew".to_owned(),
        name => format!("/vms/{name}"),
    }
}

/// The page of a host.
pub(crate) fn host(name: &HostName) -> String {
    format!("/hosts/{name}")
}

/// The page of an operation.
pub(crate) fn operation(id: &OperationId) -> String {
    format!("/operations/{id}")
}

/// The page of what a finding is about, if it has one.
pub(crate) fn subject(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Host(name) => Some(host(name)),
        Subject::Gpu(key) => Some(gpu(key)),
        Subject::Partition(slot) => Some(gpu(&slot.gpu)),
        Subject::Vm(name) => Some(vm(name)),
        Subject::Rule(_) => Some("/rules".to_owned()),
        Subject::Installation | Subject::Input(_) => None,
    }
}

/// The page where something can be done about a finding, and what it is called.
pub(crate) fn mend(finding: &Finding) -> Option<(String, String)> {
    let page = |to: &str, label: &str| Some((to.to_owned(), label.to_owned()));
    match finding.code {
        Code::UnlikeCount | Code::SetIncomplete => page("/partition", "Configure partitions"),
        Code::UnlikeVendor
        | Code::UnlikeDevice
        | Code::UnlikeSubsystem
        | Code::UnlikeMemory
        | Code::UnlikeBackend
        | Code::UnlikeOffers
        | Code::UnlikeSeries
        | Code::UnlikeDriver
        | Code::UnlikeFirmware
        | Code::UnlikeEcc
        | Code::SetUnlike
        | Code::NoHomogeneousSet
        | Code::SelectionUnlike => page("/homogeneity", "Compare GPUs"),
        Code::CapacityShort | Code::NoFreeMemory => page("/capacity", "See capacity"),
        Code::FailoverPaused => page("/hosts", "Open hosts"),
        Code::StoreMemberDown
        | Code::StoreMemberCorrupt
        | Code::StoreWithoutMajority
        | Code::StoreOutOfSpace
        | Code::StoreNearQuota
        | Code::StoreFragmented => page("/cluster", "Open the cluster"),
        _ => subject(&finding.subject).map(|to| (to, format!("Open {}", finding.subject))),
    }
}

/// Text as part of a query (RFC 3986, section 2.3: what is not unreserved is escaped).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The console's own address, as the browser knows it; none where it tells none, or one that could be taken for more than an address.
pub(crate) fn origin(headers: &HeaderMap) -> Option<String> {
    let is_host = |host: &&str| {
        host.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'))
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(is_host)?;
    Some(format!("https://{host}"))
}

/// Where to go after the way in: only to a page of the console. Anything that a browser could take for another site is the overview.
pub(crate) fn local(next: &str) -> &str {
    let is_local = next.starts_with('/')
        && !next.contains("//")
        && !next.contains('\\')
        && !next.chars().any(|c| c.is_control() || c.is_whitespace());
    if is_local { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_to_another_site() {
        for next in [
            "",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a//b",
            "evil",
            "\\/x",
            "/\t/evil",
            "/a\nb",
        ] {
            assert_eq!(local(next), "/", "{next:?}");
        }
        for next in ["/", "/vms?state=running&page=2", "/gpus/node1/0000:01:00.0"] {
            assert_eq!(local(next), next);
        }
    }

    #[test]
    fn what_could_end_a_parameter_is_escaped() {
        assert_eq!(encode("/vms?a=b&c=d e\u{e4}"), "/vms%3Fa%3Db%26c%3Dd%20e%C3%A4");
    }
}
