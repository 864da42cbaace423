//! Arguments that are more than a word: GPUs, requests, sizes, times.
//!
//! Each is checked while the command line is read, so that a typing error is a usage error and never reaches a host.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tranche_core::label::Label;
use tranche_core::name::{GpuAddress, GpuKey, HostName, LabelKey, LabelValue, NameError, PciAddress};
use tranche_core::spec::{PREFERENCE, Request, VolumeRef};

/// Where a VM goes: a member of the cluster, or the console of a host that is in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A member.
    Host(HostName),
    /// The console of another host.
    Url(String),
}

impl Destination {
    /// The member, if it is one.
    pub fn into_host(self) -> Option<HostName> {
        if let Self::Host(host) = self { Some(host) } else { None }
    }
}

impl FromStr for Destination {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.starts_with("https://") {
            Ok(Self::Url(text.to_owned()))
        } else {
            text.parse().map(Self::Host)
        }
    }
}

/// A GPU as people write it: `node1/0000:41:00.0`, `0000:41:00.0`, `41:00.0`, or the name of a virtual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuArg {
    /// The host, where it was named.
    pub host: Option<HostName>,
    /// The address.
    pub address: AddressArg,
}

/// An address as people write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressArg {
    /// Complete.
    Full(GpuAddress),
    /// Without its PCI domain, which stands for any domain.
    Short(PciAddress),
}

impl GpuArg {
    /// Whether it means this GPU.
    pub fn matches(&self, gpu: &GpuKey) -> bool {
        let same_address = match &self.address {
            AddressArg::Full(address) => *address == gpu.address,
            AddressArg::Short(short) => {
                gpu.address.pci().is_some_and(|pci| PciAddress { domain: 0, ..pci } == *short)
            }
        };
        same_address && self.host.as_ref().is_none_or(|host| *host == gpu.host)
    }

    /// The GPU, if it is fully named and nobody has to be asked.
    pub fn key(&self) -> Option<GpuKey> {
        match (&self.host, &self.address) {
            (Some(host), AddressArg::Full(address)) => {
                Some(GpuKey { host: host.clone(), address: address.clone() })
            }
            _ => None,
        }
    }
}

impl fmt::Display for GpuArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        match &self.address {
            AddressArg::Full(address) => address.fmt(f),
            AddressArg::Short(PciAddress { bus, device, function, .. }) => {
                write!(f, "{bus:02x}:{device:02x}.{function}")
            }
        }
    }
}

impl FromStr for GpuArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, address) = match text.split_once('/') {
            Some((host, address)) => (Some(host.parse().map_err(|error| format!("{error}"))?), address),
            None => (None, text),
        };
        let parsed: GpuAddress = address.parse().map_err(|_| GPU_FORMS.to_owned())?;
        let address = match parsed.pci() {
            Some(pci) if address.matches(':').count() == 1 => AddressArg::Short(pci),
            _ => AddressArg::Full(parsed),
        };
        Ok(Self { host, address })
    }
}

const GPU_FORMS: &str = "write host/address, an address such as 0000:41:00.0 or 41:00.0, or a device's name";

/// What a VM asks for, as written after `--gpu`.
pub(crate) fn request(text: &str) -> Result<Request, String> {
    match text {
        "none" => return Ok(Request::None),
        "any" => return Ok(Request::ANY_PARTITION),
        _ => {}
    }
    if let Some(rest) =
        text.strip_prefix("whole").filter(|rest| rest.is_empty() || rest.starts_with([':', '@']))
    {
        return whole(rest);
    }
    if let Some(profile) = text.strip_prefix("profile:").filter(|profile| !profile.is_empty()) {
        return Ok(Request::Partition { vram_mib: None, profile: Some(profile.to_owned()) });
    }
    let vram_mib = size_mib(text).map_err(|_| {
        "write none, any, a size such as 4GiB, profile:NAME, whole, whole:COUNT, or whole:COUNT@POOL"
            .to_owned()
    })?;
    Ok(Request::Partition { vram_mib: Some(vram_mib), profile: None })
}

/// What follows `whole`: nothing, `:2`, `@render`, or `:2@render`.
fn whole(rest: &str) -> Result<Request, String> {
    let (count, pool) = match rest.split_once('@') {
        Some((count, pool)) => (count, Some(pool.parse().map_err(|error| format!("{error}"))?)),
        None => (rest, None),
    };
    let gpus = match count.strip_prefix(':') {
        Some(count) => count.parse().map_err(|_| format!("{count:?} is no number of GPUs"))?,
        None => 1,
    };
    Ok(Request::Whole { gpus, pool })
}

/// A size in MiB: `4GiB`, `4G`, `512MiB`, `512`.
pub(crate) fn size_mib(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit_mib = match &text[digits.len()..] {
        "" | "M" | "MiB" => Some(1),
        "G" | "GiB" => Some(1024),
        "T" | "TiB" => Some(1024 * 1024),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    let size = unit_mib.zip(number).and_then(|(unit, number)| number.checked_mul(unit));
    size.ok_or_else(|| "write a size such as 4GiB or 512MiB".to_owned())
}

/// A volume: `POOL/VOLUME`.
pub(crate) fn volume(text: &str) -> Result<VolumeRef, String> {
    let parts = text.split_once('/').filter(|(pool, volume)| !pool.is_empty() && !volume.is_empty());
    let (pool, volume) = parts.ok_or("write POOL/VOLUME, as in default/desk-01.qcow2")?;
    Ok(VolumeRef { pool: pool.to_owned(), volume: volume.to_owned() })
}

/// A host and how much it is preferred: `node1`, `node1:10`.
pub(crate) fn preferred_host(text: &str) -> Result<(HostName, u16), String> {
    let (host, priority) = text.split_once(':').unwrap_or((text, ""));
    let priority = match priority {
        "" if !text.ends_with(':') => PREFERENCE,
        priority => priority.parse().map_err(|_| "write HOST or HOST:PRIORITY, as in node1:10".to_owned())?,
    };
    Ok((host.parse().map_err(|error| format!("{error}"))?, priority))
}

/// A label: `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(LabelKey, LabelValue), String> {
    let Label { key, value } = text.parse().map_err(|error: NameError| format!("{error}"))?;
    Ok((key, value))
}

/// An option of a fence agent: `NAME=VALUE`.
pub(crate) fn fence_option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, as in ip=10.0.9.11")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A number, or none where the default is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OrDefault(pub(crate) Option<u32>);

/// A number, or `default`.
pub(crate) fn or_default(text: &str) -> Result<OrDefault, String> {
    match text {
        "default" => Ok(OrDefault(None)),
        number => number
            .parse()
            .map(|number| OrDefault(Some(number)))
            .map_err(|_| "write a number, or 'default'".to_owned()),
    }
}

/// A time: `90`, `90s`, `5m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit_s = match &text[digits.len()..] {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    let seconds = unit_s.zip(number).and_then(|(unit, number)| number.checked_mul(unit));
    seconds.map(Duration::from_secs).ok_or_else(|| "write a time such as 90s, 5m or 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_found_by_any_of_its_names_and_not_by_another() {
        let gpu: GpuKey = "node1/0001:41:00.0".parse().unwrap();
        for name in ["node1/0001:41:00.0", "0001:41:00.0", "41:00.0", "node1/41:00.0"] {
            assert!(name.parse::<GpuArg>().unwrap().matches(&gpu), "{name}");
        }
        for name in ["node2/0001:41:00.0", "0000:41:00.0", "41:00.1", "mbochs"] {
            assert!(!name.parse::<GpuArg>().unwrap().matches(&gpu), "{name}");
        }
        for name in ["", "node1/", "/41:00.0", "41", "No de/41:00.0", "node1/41:00.0/3"] {
            assert!(
                name.parse::<GpuArg>().is_err() || !name.parse::<GpuArg>().unwrap().matches(&gpu),
                "{name}"
            );
        }
    }

    #[test]
    fn a_request_says_what_it_asks_for() {
        assert_eq!(request("none"), Ok(Request::None));
        assert_eq!(request("any"), Ok(Request::ANY_PARTITION));
        assert_eq!(request("4GiB"), Ok(Request::Partition { vram_mib: Some(4096), profile: None }));
        let profile = Some("A2-4Q".to_owned());
        assert_eq!(request("profile:A2-4Q"), Ok(Request::Partition { vram_mib: None, profile }));
        let whole =
            |gpus, pool: Option<&str>| Request::Whole { gpus, pool: pool.map(|pool| pool.parse().unwrap()) };
        assert_eq!(request("whole"), Ok(whole(1, None)));
        assert_eq!(request("whole:2"), Ok(whole(2, None)));
        assert_eq!(request("whole@render"), Ok(whole(1, Some("render"))));
        assert_eq!(request("whole:2@render"), Ok(whole(2, Some("render"))));
        for wrong in [
            "",
            "some",
            "whole:",
            "whole:many",
            "whole:300",
            "whole@",
            "whole:@render",
            "wholesale",
            "whole:2@a b",
            "profile:",
            "4GB",
        ] {
            assert!(request(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_may_be_left_to_the_default() {
        assert_eq!(or_default("40"), Ok(OrDefault(Some(40))));
        assert_eq!(or_default("default"), Ok(OrDefault(None)));
        assert!(or_default("-1").is_err() && or_default("none").is_err());
    }

    #[test]
    fn sizes_and_times_are_exact_or_refused() {
        assert_eq!((size_mib("3648MiB"), size_mib("1T"), size_mib("7")), (Ok(3648), Ok(1 << 20), Ok(7)));
        for wrong in ["", "0", "GiB", "-1", "1.5GiB", "4 GiB", "99999999999999999999T", "٣"] {
            assert!(size_mib(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            (duration("90"), duration("5m")),
            (Ok(Duration::from_secs(90)), Ok(Duration::from_secs(300)))
        );
        assert!(duration("soon").is_err());
    }
}
