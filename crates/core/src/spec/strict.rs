//! Strict reading of modes and requests.
//!
//! serde's tagged enums take unknown fields beside a variant without fields (`{"mode": "host", "count": 4}`), and a
//! count that is silently ignored is a wish that is silently lost. These types take every field that any variant has,
//! and refuse those that the named variant lacks.

use serde::Deserialize;

use super::{AskedMode, GpuMode};
use crate::name::PoolName;

/// A mode as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mode {
    mode: ModeName,
    count: Option<u16>,
    series: Option<String>,
    sizes: Option<Vec<String>>,
    allow_console: Option<bool>,
    pool: Option<PoolName>,
    drain: Option<bool>,
    reload_driver: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModeName {
    Host,
    Partitioned,
    Mixed,
    Passthrough,
}

impl TryFrom<Mode> for AskedMode {
    type Error = String;

    fn try_from(mut written: Mode) -> Result<Self, String> {
        let drain = written.drain.take().unwrap_or(false);
        let reload_driver = written.reload_driver.take().unwrap_or(false);
        if !matches!(written.mode, ModeName::Partitioned) {
            refuse("this mode", &[("reload_driver", reload_driver)])?;
        }
        Ok(Self { mode: written.try_into()?, drain, reload_driver })
    }
}

impl TryFrom<Mode> for GpuMode {
    type Error = String;

    fn try_from(written: Mode) -> Result<Self, String> {
        let Mode { mode, count, series, sizes, allow_console, pool, drain, reload_driver } = written;
        refuse("a mode", &[("drain", drain.is_some()), ("reload_driver", reload_driver.is_some())])?;
        let split = [("count", count.is_some()), ("series", series.is_some())];
        if !matches!(mode, ModeName::Mixed) {
            refuse("this mode", &[("sizes", sizes.is_some())])?;
        }
        let passthrough = [("allow_console", allow_console.is_some()), ("pool", pool.is_some())];
        match mode {
            ModeName::Host => {
                refuse("mode host", &split)?;
                refuse("mode host", &passthrough)?;
                Ok(Self::Host)
            }
            ModeName::Partitioned => {
                refuse("mode partitioned", &passthrough)?;
                let count = count.ok_or("mode partitioned needs the field count")?;
                Ok(Self::Partitioned { count, series })
            }
            ModeName::Mixed => {
                refuse("mode mixed", &split)?;
                refuse("mode mixed", &passthrough)?;
                Ok(Self::Mixed { sizes: sizes.ok_or("mode mixed needs the field sizes")? })
            }
            ModeName::Passthrough => {
                refuse("mode passthrough", &split)?;
                Ok(Self::Passthrough { allow_console: allow_console.unwrap_or(false), pool })
            }
        }
    }
}

/// A request as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    kind: RequestName,
    vram_mib: Option<u64>,
    profile: Option<String>,
    gpus: Option<u8>,
    pool: Option<PoolName>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RequestName {
    None,
    Partition,
    Whole,
}

impl TryFrom<Request> for super::Request {
    type Error = String;

    fn try_from(written: Request) -> Result<Self, String> {
        let Request { kind, vram_mib, profile, gpus, pool } = written;
        let whole = [("gpus", gpus.is_some()), ("pool", pool.is_some())];
        let size = [("vram_mib", vram_mib.is_some()), ("profile", profile.is_some())];
        match kind {
            RequestName::None => {
                refuse("kind none", &size)?;
                refuse("kind none", &whole)?;
                Ok(Self::None)
            }
            RequestName::Partition => {
                refuse("kind partition", &whole)?;
                Ok(Self::Partition { vram_mib, profile })
            }
            RequestName::Whole => {
                refuse("kind whole", &size)?;
                Ok(Self::Whole { gpus: gpus.ok_or("kind whole needs the field gpus")?, pool })
            }
        }
    }
}

fn refuse(of: &str, fields: &[(&str, bool)]) -> Result<(), String> {
    match fields.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(format!("{of} takes no field {field}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AskedMode, GpuMode, Request};

    #[test]
    fn a_field_of_another_variant_is_refused_and_named() {
        for (text, field) in [
            (r#"{"mode":"host","count":4}"#, "count"),
            (r#"{"mode":"passthrough","count":4}"#, "count"),
            (r#"{"mode":"partitioned","count":4,"allow_console":true}"#, "allow_console"),
            (r#"{"mode":"partitioned","count":4,"pool":"render"}"#, "pool"),
            (r#"{"mode":"passthrough","pool":"no pool"}"#, "no pool"),
            (r#"{"mode":"partitioned"}"#, "count"),
            (r#"{"mode":"partitioned","count":4,"sizes":["4Q"]}"#, "sizes"),
            (r#"{"mode":"host","sizes":[]}"#, "sizes"),
            (r#"{"mode":"mixed"}"#, "sizes"),
            (r#"{"mode":"mixed","sizes":["8Q"],"count":4}"#, "count"),
            (r#"{"mode":"partitioned","count":4,"colour":1}"#, "colour"),
        ] {
            let error = serde_json::from_str::<GpuMode>(text).unwrap_err().to_string();
            assert!(error.contains(field), "{text}: {error}");
        }
        for (text, field) in [
            (r#"{"kind":"none","gpus":2}"#, "gpus"),
            (r#"{"kind":"whole"}"#, "gpus"),
            (r#"{"kind":"partition","gpus":1}"#, "gpus"),
            (r#"{"kind":"partition","pool":"render"}"#, "pool"),
        ] {
            let error = serde_json::from_str::<Request>(text).unwrap_err().to_string();
            assert!(error.contains(field), "{text}: {error}");
        }
    }

    #[test]
    fn a_mode_is_asked_for_with_drain_and_kept_without() {
        let text = r#"{"mode":"partitioned","count":4,"drain":true}"#;
        let asked: AskedMode = serde_json::from_str(text).unwrap();
        assert_eq!((&asked.mode, asked.drain), (&GpuMode::Partitioned { count: 4, series: None }, true));
        assert_eq!(serde_json::to_string(&asked).unwrap(), text);
        assert!(serde_json::from_str::<AskedMode>(r#"{"mode":"host"}"#).is_ok_and(|asked| !asked.drain));
        for wrong in [text, r#"{"mode":"host","drain":true}"#] {
            assert!(serde_json::from_str::<GpuMode>(wrong).unwrap_err().to_string().contains("drain"));
        }
        assert!(serde_json::from_str::<AskedMode>(r#"{"mode":"host","drian":true}"#).is_err());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let modes = [
            GpuMode::Host,
            GpuMode::Partitioned { count: 4, series: Some("Q".to_owned()) },
            GpuMode::Partitioned { count: 4, series: None },
            GpuMode::Mixed { sizes: vec!["8Q".to_owned(), "4Q".to_owned()] },
            GpuMode::Passthrough { allow_console: true, pool: None },
            GpuMode::Passthrough { allow_console: false, pool: Some("render".parse().unwrap()) },
        ];
        for mode in modes {
            let text = serde_json::to_string(&mode).unwrap();
            assert_eq!(serde_json::from_str::<GpuMode>(&text).unwrap(), mode);
        }
        let of_pool = Request::Whole { gpus: 2, pool: Some("render".parse().unwrap()) };
        for request in
            [Request::None, Request::ANY_PARTITION, Request::Whole { gpus: 2, pool: None }, of_pool]
        {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        }
    }
}
