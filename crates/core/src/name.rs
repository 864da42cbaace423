//! What things are called: hosts, VMs, GPUs, partitions, and the times at which things happen.
//!
//! Every name is checked where it enters, so that no later room has to think about path separators, XML or keys.
//! Names are text on the wire and in the store; nothing here knows what they stand for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest name of a VM, in bytes.
pub const VM_NAME_LEN_MAX: usize = 63;
/// The longest name of a host, in bytes (RFC 1123).
pub const HOST_NAME_LEN_MAX: usize = 253;
/// The longest name of a pool of GPUs, in bytes.
pub const POOL_NAME_LEN_MAX: usize = 63;
/// The longest name of a rule, in bytes.
pub const RULE_NAME_LEN_MAX: usize = 63;
/// The longest key, and the longest value, of a label, in bytes.
pub const LABEL_LEN_MAX: usize = 63;
/// The longest name of a user or a token, in bytes.
pub const USER_NAME_LEN_MAX: usize = 63;
/// The longest name of a device that is not on the PCI bus, in bytes.
pub const DEVICE_NAME_LEN_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}: {rule}")]
pub struct NameError {
    /// What the text should have named.
    pub kind: &'static str,
    /// The text, cut to a length that is safe to print.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl NameError {
    pub(crate) fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        Self { kind, text: text.chars().take(80).collect(), rule }
    }
}

/// Makes a type travel as its text, in JSON values and in map keys alike.
macro_rules! travels_as_text {
    ($name:ident, $example:literal) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .examples([$example])
                    .into()
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}
    };
}
pub(crate) use travels_as_text;

/// Makes a checked text type: one string, one rule.
macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $len_max:expr, $valid:expr, $rule:literal, $example:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if text.is_empty() || text.len() > $len_max || !valid(text) {
                    return Err(NameError::new($kind, text, $rule));
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        travels_as_text!($name, $example);
    };
}

fn starts_with_alphanumeric(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

text_name!(
    /// An invitation to send a VM to a host: the SHA-256 of its token's secret, in lower-case hexadecimal.
    InvitationId,
    "invitation",
    64,
    |text| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
    "64 hexadecimal digits",
    "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
);

text_name!(
    /// A host: an RFC 1123 host name, lower case.
    HostName,
    "host name",
    HOST_NAME_LEN_MAX,
    |text| text.split('.').all(|label| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    }),
    "lower-case letters, digits and '-' in labels of 1 to 63, joined by '.', at most 253 in all",
    "node1"
);

text_name!(
    /// A VM: also the name of its libvirt domain.
    VmName,
    "VM name",
    VM_NAME_LEN_MAX,
    |text| starts_with_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')),
    "1 to 63 letters, digits, '.', '_' and '-', starting with a letter or a digit",
    "desk-01"
);

text_name!(
    /// Somebody who logs in, or what a token is called by.
    UserName,
    "user name",
    USER_NAME_LEN_MAX,
    |text| starts_with_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')),
    "1 to 63 letters, digits, '.', '_' and '-', starting with a letter or a digit",
    "alice"
);

text_name!(
    /// A device that is not on the PCI bus, as the kernel names it under `/sys/class/mdev_bus`.
    DeviceName,
    "device name",
    DEVICE_NAME_LEN_MAX,
    |text| starts_with_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')),
    "1 to 63 letters, digits, '_' and '-', starting with a letter or a digit",
    "mbochs"
);

text_name!(
    /// A pool of whole GPUs; pools of one name on several hosts are one pool.
    PoolName,
    "pool name",
    POOL_NAME_LEN_MAX,
    |text| starts_with_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')),
    "1 to 63 letters, digits, '.', '_' and '-', starting with a letter or a digit",
    "render"
);

text_name!(
    /// A rule about where VMs run.
    RuleName,
    "rule name",
    RULE_NAME_LEN_MAX,
    |text| starts_with_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')),
    "1 to 63 letters, digits, '.', '_' and '-', starting with a letter or a digit",
    "databases-apart"
);

text_name!(
    /// The key of a label of a host or a VM.
    LabelKey,
    "label key",
    LABEL_LEN_MAX,
    |text| starts_with_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')),
    "1 to 63 letters, digits, '.', '_' and '-', starting with a letter or a digit",
    "rack"
);

text_name!(
    /// The value of a label of a host or a VM.
    LabelValue,
    "label value",
    LABEL_LEN_MAX,
    |text| starts_with_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')),
    "1 to 63 letters, digits, '.', '_' and '-', starting with a letter or a digit",
    "a-07"
);

text_name!(
    /// A fence agent: a program that cuts a machine's power (ClusterLabs, `FenceAgentAPI`).
    AgentName,
    "fence agent",
    DEVICE_NAME_LEN_MAX,
    |text| text.strip_prefix("fence_").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }),
    "'fence_' and lower-case letters, digits and '_', at most 63 characters",
    "fence_ipmilan"
);

/// A PCI function: domain, bus, device, function.
///
/// Printed as the kernel prints it (`%04x:%02x:%02x.%d`, lower case; a domain may be longer, as VMD's are).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The PCI domain (segment).
    pub domain: u32,
    /// The bus, 0 to 255.
    pub bus: u8,
    /// The device on the bus, 0 to 31.
    pub device: u8,
    /// The function of the device, 0 to 7.
    pub function: u8,
}

impl FromStr for PciAddress {
    type Err = NameError;

    /// Takes `0000:41:00.0`, the short `41:00.0`, and NVIDIA's `00000000:41:00.0`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let error =
            || NameError::new("PCI address", text, "domain:bus:device.function in hex, as in 0000:41:00.0");
        let hex = |part: &str, len: std::ops::RangeInclusive<usize>| {
            let digits = part.bytes().all(|b| b.is_ascii_hexdigit());
            (digits && len.contains(&part.len())).then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        let (head, function) = text.rsplit_once('.').ok_or_else(error)?;
        let parts: Vec<&str> = head.split(':').collect();
        let (domain, bus, device) = match parts[..] {
            [bus, device] => (Some(0), bus, device),
            [domain, bus, device] => (hex(domain, 4..=8), bus, device),
            _ => return Err(error()),
        };
        let domain = domain.ok_or_else(error)?;
        let bus = hex(bus, 2..=2).and_then(|b| u8::try_from(b).ok()).ok_or_else(error)?;
        let device =
            hex(device, 2..=2).filter(|d| *d < 32).and_then(|d| u8::try_from(d).ok()).ok_or_else(error)?;
        let function =
            hex(function, 1..=1).filter(|f| *f < 8).and_then(|f| u8::try_from(f).ok()).ok_or_else(error)?;
        Ok(Self { domain, bus, device, function })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function))
    }
}

travels_as_text!(PciAddress, "0000:41:00.0");

/// Where a GPU is on its host: a PCI function, or a device of another bus that makes mediated devices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuAddress {
    /// A PCI physical function.
    Pci(PciAddress),
    /// A parent under `/sys/class/mdev_bus` that is no PCI device (software-defined devices).
    Virtual(DeviceName),
}

impl GpuAddress {
    /// The PCI address, where there is one.
    pub fn pci(&self) -> Option<PciAddress> {
        match self {
            Self::Pci(address) => Some(*address),
            Self::Virtual(_) => None,
        }
    }
}

impl From<PciAddress> for GpuAddress {
    fn from(address: PciAddress) -> Self {
        Self::Pci(address)
    }
}

impl FromStr for GpuAddress {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') { text.parse().map(Self::Pci) } else { text.parse().map(Self::Virtual) }
    }
}

impl fmt::Display for GpuAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => address.fmt(f),
            Self::Virtual(name) => name.fmt(f),
        }
    }
}

travels_as_text!(GpuAddress, "0000:41:00.0");

/// One GPU of one host, written `host/address`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuKey {
    /// The host that the GPU is in.
    pub host: HostName,
    /// Where it is on that host.
    pub address: GpuAddress,
}

impl GpuKey {
    /// What no GPU of a host comes before, whether there is one of this key or not.
    pub fn first_of(host: &HostName) -> Self {
        let lowest = PciAddress { domain: 0, bus: 0, device: 0, function: 0 };
        Self { host: host.clone(), address: GpuAddress::Pci(lowest) }
    }
}

impl FromStr for GpuKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (host, address) = text
            .split_once('/')
            .ok_or_else(|| NameError::new("GPU", text, "host/address, as in node1/0000:41:00.0"))?;
        Ok(Self { host: host.parse()?, address: address.parse()? })
    }
}

impl fmt::Display for GpuKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.host, self.address))
    }
}

travels_as_text!(GpuKey, "node1/0000:41:00.0");

/// What of a GPU a booking takes: one partition, or all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The partition with this index, counted from 0 (a VF's index is its `virtfnN`).
    Partition(u16),
    /// The whole GPU, passed through.
    Whole,
}

impl FromStr for Slot {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "whole" {
            return Ok(Self::Whole);
        }
        let index = text.parse().ok().filter(|index: &u16| index.to_string() == text);
        index
            .map(Self::Partition)
            .ok_or_else(|| NameError::new("partition", text, "an index from 0, or 'whole'"))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(index) => index.fmt(f),
            Self::Whole => f.pad("whole"),
        }
    }
}

travels_as_text!(Slot, "3");

/// What a booking takes, written `host/address/slot`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// The GPU.
    pub gpu: GpuKey,
    /// The part of it.
    pub slot: Slot,
}

impl FromStr for SlotKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (gpu, slot) =
            text.rsplit_once('/').ok_or_else(|| NameError::new("partition", text, "host/address/index"))?;
        Ok(Self { gpu: gpu.parse()?, slot: slot.parse()? })
    }
}

impl fmt::Display for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.gpu, self.slot))
    }
}

travels_as_text!(SlotKey, "node1/0000:41:00.0/3");

/// The ids in a PCI function's configuration space: what it is, not where it is.
///
/// Written `vendor:device:subvendor:subdevice`, four hex digits each. The subsystem matters: NVIDIA's A2 and A16 share
/// `10de:25b6` and differ there alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PciIds {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Subsystem vendor id.
    pub subvendor: u16,
    /// Subsystem device id.
    pub subdevice: u16,
}

impl FromStr for PciIds {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error =
            || NameError::new("PCI id", text, "vendor:device:subvendor:subdevice, four hex digits each");
        let mut ids = [0u16; 4];
        let parts: Vec<&str> = text.split(':').collect();
        if parts.len() != ids.len() {
            return Err(error());
        }
        for (id, part) in ids.iter_mut().zip(parts) {
            if part.len() != 4 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *id = u16::from_str_radix(part, 16).map_err(|_| error())?;
        }
        Ok(Self { vendor: ids[0], device: ids[1], subvendor: ids[2], subdevice: ids[3] })
    }
}

impl fmt::Display for PciIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text =
            format!("{:04x}:{:04x}:{:04x}:{:04x}", self.vendor, self.device, self.subvendor, self.subdevice);
        f.pad(&text)
    }
}

travels_as_text!(PciIds, "10de:25b6:10de:14a9");

/// A VM's UUID: the same in Tranche and in libvirt, and unchanged when the VM moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct VmId(pub Uuid);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct OperationId(pub Uuid);

impl FromStr for OperationId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Uuid::try_parse(text).map(Self).map_err(|_| NameError::new("operation id", text, "a UUID"))
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment: milliseconds since the Unix epoch. The core never asks what time it is; it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds from `earlier` to this moment; 0 where the clock went backwards.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether so many milliseconds have passed since `earlier`. A clock that was set back past that moment counts as if they had:
    /// a pause may end early by that, and never lasts for as long as the clock was set back.
    pub fn is_past(self, earlier: Self, ms: u64) -> bool {
        self < earlier || self.ms_since(earlier) >= ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuses<T: FromStr<Err = NameError> + fmt::Debug>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_pci_address_is_read_in_every_form_that_tools_print() {
        for text in ["0000:41:00.0", "41:00.0", "00000000:41:00.0"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), "0000:41:00.0");
        }
        assert_eq!("10000:01:1f.7".parse::<PciAddress>().unwrap().to_string(), "10000:01:1f.7");
        refuses::<PciAddress>(&[
            "",
            "41:00",
            "41:00.8",
            "41:20.0",
            "g1:00.0",
            "+1:00.0",
            "0:41:00.0",
            "41:00.0 ",
        ]);
    }

    #[test]
    fn a_vm_name_has_no_room_for_paths_or_xml() {
        assert_eq!("Desk-01.lab_x".parse::<VmName>().unwrap().as_str(), "Desk-01.lab_x");
        refuses::<VmName>(&[
            "",
            ".",
            "..",
            "-x",
            "a/b",
            "a<b",
            "a&b",
            "a\"b",
            "a b",
            "a\n",
            "é",
            &"x".repeat(64),
        ]);
    }

    #[test]
    fn a_host_name_is_an_rfc_1123_name() {
        assert!("node1.edge.example".parse::<HostName>().is_ok());
        refuses::<HostName>(&["", "Node1", "-a", "a-", "a..b", "a/b", ".", &"x".repeat(64)]);
    }

    #[test]
    fn keys_are_read_back_from_what_they_print() {
        for text in ["node1/0000:41:00.0/3", "node1/0000:41:00.0/whole", "n.example/mbochs/15"] {
            assert_eq!(text.parse::<SlotKey>().unwrap().to_string(), text);
        }
        refuses::<SlotKey>(&[
            "node1/0000:41:00.0/03",
            "node1/0000:41:00.0/-1",
            "node1/0000:41:00.0/70000",
            "node1/3",
        ]);
        refuses::<GpuKey>(&["node1", "/0000:41:00.0", "node1/", "node1/../x"]);
    }

    #[test]
    fn pci_ids_keep_all_four_parts() {
        assert_eq!("10de:25b6:10de:14a9".parse::<PciIds>().unwrap().to_string(), "10de:25b6:10de:14a9");
        refuses::<PciIds>(&["10de:25b6", "10de:25b6:10de:14a", "10de:25b6:10de:+4a9"]);
    }
}
