//! The form of a record: JSON in an envelope with a version, `{"v":1,"data":{…}}`.
//!
//! A version knows the one before it and nothing else, so any old record is read by walking up from its version. To
//! change a stored type: keep the old one here under its number, make it the new one's [`Stored::Previous`], say in
//! [`Stored::migrate`] how it becomes the new one, and raise [`Stored::VERSION`].

use std::error::Error;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tranche_core::handover::Invitation;
use tranche_core::inventory::HostInventory;
use tranche_core::liveness::Heartbeat;
use tranche_core::operation::Operation;
use tranche_core::plan::{Booking, GpuPlan, HostPlan, VmPlan};
use tranche_core::shared::Shared;
use tranche_core::spec::{GpuSpec, HostSpec, Policy, Rule, VmSpec};

use super::RepositoryError;
use super::trails::Trail;
use crate::key::Key;

/// A type that is stored.
pub(super) trait Stored: Serialize + DeserializeOwned {
    /// The version of its form, from 1.
    const VERSION: u32;
    /// The form before this one.
    type Previous: Stored;

    /// The same thing, in this form.
    fn migrate(previous: Self::Previous) -> Self;
}

/// What comes before the first version: nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Nothing {}

impl Stored for Nothing {
    const VERSION: u32 = 0;
    type Previous = Self;

    fn migrate(previous: Self) -> Self {
        previous
    }
}

/// The first form of a type.
macro_rules! first_version {
    ($($stored:ty),*) => {$(
        impl Stored for $stored {
            const VERSION: u32 = 1;
            type Previous = Nothing;

            fn migrate(previous: Nothing) -> Self {
                match previous {}
            }
        }
    )*};
}

first_version!(
    Policy,
    GpuSpec,
    VmSpec,
    HostSpec,
    Rule,
    Invitation,
    GpuPlan,
    Booking,
    VmPlan,
    HostPlan,
    HostInventory,
    Heartbeat,
    Operation,
    Trail
);
// How often a host's part of the plan has changed.
first_version!(u64);

impl<T: Stored> Stored for Shared<T> {
    const VERSION: u32 = T::VERSION;
    type Previous = T::Previous;

    fn migrate(previous: Self::Previous) -> Self {
        T::migrate(previous).into()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    v: u32,
    data: T,
}

/// The version alone; what it is the version of may have any form.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// The bytes to store for `value`.
pub(super) fn encode<T: Stored>(key: &Key, value: &T) -> Result<Vec<u8>, RepositoryError> {
    serde_json::to_vec(&Envelope { v: T::VERSION, data: value }).map_err(|error| malformed(key, error))
}

/// The value that is stored in `bytes`.
pub(super) fn decode<T: Stored>(key: &Key, bytes: &[u8]) -> Result<T, RepositoryError> {
    // Almost every record is of the present version, and then one look is enough.
    match serde_json::from_slice::<Envelope<T>>(bytes) {
        Ok(envelope) if envelope.v == T::VERSION => Ok(envelope.data),
        _ => decode_other(key, bytes),
    }
}

fn decode_other<T: Stored>(key: &Key, bytes: &[u8]) -> Result<T, RepositoryError> {
    let Version { v } = serde_json::from_slice(bytes).map_err(|error| malformed(key, error))?;
    if v > T::VERSION {
        return Err(RepositoryError::NewerVersion { key: key.clone(), found: v, supported: T::VERSION });
    }
    if v == 0 {
        return Err(malformed(key, "there is no version 0"));
    }
    decode_version(v, key, bytes)
}

fn decode_version<T: Stored>(version: u32, key: &Key, bytes: &[u8]) -> Result<T, RepositoryError> {
    if version < T::VERSION {
        return decode_version(version, key, bytes).map(T::migrate);
    }
    let envelope: Envelope<T> = serde_json::from_slice(bytes).map_err(|error| malformed(key, error))?;
    Ok(envelope.data)
}

pub(super) fn malformed(key: &Key, source: impl Into<Box<dyn Error + Send + Sync>>) -> RepositoryError {
    RepositoryError::Malformed { key: key.clone(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Lamp1 {
        on: bool,
    }

    first_version!(Lamp1);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Lamp2 {
        brightness: u8,
    }

    impl Stored for Lamp2 {
        const VERSION: u32 = 2;
        type Previous = Lamp1;

        fn migrate(previous: Lamp1) -> Self {
            Self { brightness: if previous.on { 100 } else { 0 } }
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Lamp3 {
        brightness: u8,
        colour: String,
    }

    impl Stored for Lamp3 {
        const VERSION: u32 = 3;
        type Previous = Lamp2;

        fn migrate(previous: Lamp2) -> Self {
            Self { brightness: previous.brightness, colour: "white".to_owned() }
        }
    }

    fn key() -> Key {
        "lamp/a".parse().unwrap()
    }

    #[test]
    fn a_record_of_any_older_version_is_read_as_the_latest() {
        let white = |brightness| Lamp3 { brightness, colour: "white".to_owned() };
        let red = Lamp3 { brightness: 7, colour: "red".to_owned() };
        assert_eq!(decode::<Lamp3>(&key(), br#"{"v":1,"data":{"on":true}}"#).unwrap(), white(100));
        assert_eq!(decode::<Lamp3>(&key(), br#"{"v":2,"data":{"brightness":40}}"#).unwrap(), white(40));
        assert_eq!(decode::<Lamp3>(&key(), &encode(&key(), &red).unwrap()).unwrap(), red);
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_name_whatever_is_in_it() {
        let refused = decode::<Lamp3>(&key(), br#"{"v":4,"hue":[1,2],"on":true}"#);
        let Err(RepositoryError::NewerVersion { key: named, found, supported }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((named, found, supported), (key(), 4, 3));
    }

    #[test]
    fn a_record_that_is_malformed_is_refused_by_name() {
        let malformed: [&[u8]; 9] = [
            b"",
            b"null",
            b"\xff\xfe",
            br#"{"data":{"brightness":40}}"#,
            br#"{"v":0,"data":{}}"#,
            br#"{"v":2,"data":{"on":true}}"#,
            br#"{"v":2,"data":{"brightness":40},"more":1}"#,
            br#"{"v":2,"data":{"brightness":40,"brightness":41}}"#,
            br#"{"v":2,"data":{"brightness":40}"#,
        ];
        for bytes in malformed {
            let refused = decode::<Lamp3>(&key(), bytes);
            assert!(
                matches!(&refused, Err(RepositoryError::Malformed { key: named, .. }) if *named == key()),
                "{}: {refused:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
}
