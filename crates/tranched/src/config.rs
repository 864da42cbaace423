//! The daemon's settings: one TOML file, every setting optional, unknown ones refused.
//!
//! The documented file with all defaults is `dist/tranched.toml`; `tranched --print-default-config` prints it, and a
//! test holds it to the defaults here.

mod oidc;
mod traces;

use std::fmt;
use std::net::SocketAddr;

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use tranche_core::history::DAYS;
use tranche_core::name::{HostName, NameError};
use tranche_core::spec::Timers;
use tranche_host::fence::Places;

pub use self::oidc::{CALLBACK_PATH, OidcConfig, SESSION_HOURS};
pub use self::traces::{ONE_IN, TracesConfig};

/// The file that is read unless another is named. It may be missing.
pub const DEFAULT_PATH: &str = "/etc/tranche/tranched.toml";

/// The documented file with every default.
pub const DEFAULT_FILE: &str = include_str!("../../../dist/tranched.toml");

/// The least and the most seconds between two looks at the host when nothing happens.
pub const TICK_S: std::ops::RangeInclusive<u64> = 1..=300;

/// The least and the most milliseconds of an election of the store (etcd: at most 50 s).
pub const ELECTION_MS: std::ops::RangeInclusive<u64> = 100..=50_000;

/// The least and the most MiB that the file of a member of the store may have (etcd: no more than 8 GiB is advised).
pub const QUOTA_MIB: std::ops::RangeInclusive<u64> = 16..=8_192;

/// The least and the most MiB that the file of histories may have.
pub const HISTORY_MIB: std::ops::RangeInclusive<u64> = 8..=4_096;

/// The largest configuration file, in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This host's name; the machine's own, in lower case, if left out.
    pub host: Option<HostName>,
    /// Where the store is.
    pub state_dir: Utf8PathBuf,
    /// The Unix socket to listen on.
    pub socket: Utf8PathBuf,
    /// The group whose members may connect.
    pub socket_group: String,
    /// Where sysfs, procfs and devfs are found. Other than `/` for trials only.
    pub root: Utf8PathBuf,
    /// Where files that extend the catalogue of GPUs are.
    pub catalogue_dir: Utf8PathBuf,
    /// Seconds between two looks at the host when nothing happens; [`TICK_S`].
    pub tick_s: u64,
    /// Whether a partition that nobody uses is opened for a moment, once in a boot, to learn whether a VM with it could move live.
    pub ask_partitions: bool,
    /// The hypervisor.
    pub libvirt: LibvirtConfig,
    /// The cluster.
    pub cluster: ClusterConfig,
    /// The cluster's store.
    pub etcd: EtcdConfig,
    /// The console, and REST over HTTPS.
    pub console: ConsoleConfig,
    /// The history of how busy this host's GPUs, partitions and VMs were.
    pub history: HistoryConfig,
    /// Logging in through an issuer.
    pub oidc: OidcConfig,
    /// Traces for OpenTelemetry.
    pub traces: TracesConfig,
    /// Logs.
    pub log: LogConfig,
}

/// Settings of the console, and of REST over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleConfig {
    /// Where it is served, as `ADDRESS:PORT`; nowhere if empty.
    pub listen: String,
    /// What it shows, in PEM: its certificate and those behind it. One of the host's own if empty.
    pub certificate: Utf8PathBuf,
    /// The key of that.
    pub key: Utf8PathBuf,
}

impl ConsoleConfig {
    /// Where it is served; nowhere if that is not wanted.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    /// What people enter in their browsers, for a host that is reached at `address`; nothing if it is served nowhere.
    pub fn url(&self, address: &str) -> Option<String> {
        let port = self.address()?.port();
        let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        Some(format!("https://{address}:{port}"))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.listen.is_empty() && self.address().is_none() {
            let choose = "an address and a port such as [::]:7440, or nothing".to_owned();
            return Err(wrong("console.listen", &self.listen, choose));
        }
        let is_named = |path: &Utf8Path| !path.as_str().is_empty();
        for (setting, path, other) in [
            ("console.certificate", &self.certificate, &self.key),
            ("console.key", &self.key, &self.certificate),
        ] {
            if is_named(path) && !path.is_absolute() {
                return Err(wrong(setting, path, "an absolute path".to_owned()));
            }
            if is_named(other) && !is_named(path) {
                return Err(wrong(setting, "empty", "the file that belongs to the other one".to_owned()));
            }
        }
        Ok(())
    }
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        let (certificate, key) = (Utf8PathBuf::new(), Utf8PathBuf::new());
        Self { listen: "[::]:7440".to_owned(), certificate, key }
    }
}

/// Settings of the history.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// For how many days it is kept; with 0 nothing is written, and memory has the last day.
    pub days: u64,
    /// How many MiB its file may have; [`HISTORY_MIB`].
    pub size_mib_max: u64,
}

impl HistoryConfig {
    fn check(&self) -> Result<(), ConfigError> {
        if self.days != 0 && !DAYS.contains(&self.days) {
            return Err(wrong("history.days", self.days, format!("0 to {} days", DAYS.end())));
        }
        if !HISTORY_MIB.contains(&self.size_mib_max) {
            let choose = format!("{} to {} MiB", HISTORY_MIB.start(), HISTORY_MIB.end());
            return Err(wrong("history.size_mib_max", self.size_mib_max, choose));
        }
        Ok(())
    }
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { days: 7, size_mib_max: 64 }
    }
}

/// Settings of the cluster. Whether this host is a member of one is no setting: `tranche cluster` makes it one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// The address, or the name, by which other hosts reach this one; its own name if empty.
    pub address: String,
    /// The TCP port at which other hosts ask it.
    pub port: u16,
    /// Whether this machine only has a voice in the store.
    pub witness: bool,
    /// Where fence agents are looked for, in this order.
    pub fence_agent_dirs: Vec<Utf8PathBuf>,
}

/// Settings of the cluster's store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// Who runs this host's member.
    pub run: EtcdRun,
    /// Its program.
    pub program: Utf8PathBuf,
    /// The TCP port at which it serves clients.
    pub client_port: u16,
    /// The TCP port at which it speaks to other members.
    pub peer_port: u16,
    /// How long members go without word from their leader before they choose another one, in milliseconds; the same on
    /// every host, and as the policy's `failover.timers.election_ms`.
    pub election_ms: u64,
    /// How many MiB its file may have; [`QUOTA_MIB`]. The same on every host.
    pub quota_mib: u64,
    /// An etcd that somebody else runs, as `https://HOST:PORT`; then no host keeps the store itself.
    pub endpoints: Vec<String>,
    /// Whom that one is certified by.
    pub authority: Utf8PathBuf,
    /// What is shown to it.
    pub certificate: Utf8PathBuf,
    /// The key of that.
    pub key: Utf8PathBuf,
}

/// Who runs a host's member of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EtcdRun {
    /// systemd does: `tranche-etcd.service`.
    Systemd,
    /// The daemon does, where there is no systemd.
    Child,
}

/// Settings of the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LibvirtConfig {
    /// The connection URI.
    pub uri: String,
    /// Where cloud-init disks lie; QEMU's user must be able to pass through the directories above it.
    pub seed_dir: Utf8PathBuf,
    /// Where the serial consoles of guests are logged.
    pub serial_log_dir: Utf8PathBuf,
}

/// Settings of logs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// In which form.
    pub format: LogFormat,
    /// How much: `error`, `warn`, `info`, `debug`, `trace`, or a list such as `info,tranche_host=debug`.
    pub level: String,
}

/// In which form logs are written, always to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `human` on a terminal, `journal` else.
    Auto,
    /// Coloured lines with the time.
    Human,
    /// Plain lines without the time, which the journal has.
    Journal,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: None,
            state_dir: "/var/lib/tranche".into(),
            socket: tranche_api::SOCKET_PATH.into(),
            socket_group: "tranche".to_owned(),
            root: "/".into(),
            catalogue_dir: "/etc/tranche/catalogue.d".into(),
            tick_s: 10,
            ask_partitions: false,
            libvirt: LibvirtConfig::default(),
            cluster: ClusterConfig::default(),
            etcd: EtcdConfig::default(),
            console: ConsoleConfig::default(),
            history: HistoryConfig::default(),
            oidc: OidcConfig::default(),
            traces: TracesConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        let fence_agent_dirs = Places::default().agent_dirs;
        Self { address: String::new(), port: 7443, witness: false, fence_agent_dirs }
    }
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            run: EtcdRun::Systemd,
            program: "/usr/bin/etcd".into(),
            client_port: 7444,
            peer_port: 7445,
            election_ms: Timers::default().election_ms,
            quota_mib: 2_048,
            endpoints: Vec::new(),
            authority: "/etc/tranche/etcd/ca.crt".into(),
            certificate: "/etc/tranche/etcd/client.crt".into(),
            key: "/etc/tranche/etcd/client.key".into(),
        }
    }
}

impl EtcdConfig {
    /// How many bytes the file of a member may have.
    pub fn quota_bytes(&self) -> u64 {
        self.quota_mib << 20
    }
}

impl Default for LibvirtConfig {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".to_owned(),
            seed_dir: "/var/lib/libvirt/tranche".into(),
            serial_log_dir: "/var/log/libvirt/qemu".into(),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

/// Why there are no settings to work with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read")]
    Read {
        /// The file.
        path: Utf8PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no valid TOML, or has settings that there are not.
    #[error("the configuration file {path} is not valid")]
    Parse {
        /// The file.
        path: Utf8PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A setting has a value that it cannot have.
    #[error("the setting {setting} cannot be {value}; choose {choose}")]
    Value {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it can be.
        choose: String,
    },
    /// The machine's own name is no host name.
    #[error("the machine's name does not serve as this host's name; set `host` in {DEFAULT_PATH}")]
    MachineName(#[source] NameError),
}

impl Config {
    /// Reads the file at `path`; without one, the file at [`DEFAULT_PATH`] if it is there, else the defaults.
    ///
    /// # Errors
    /// The file is missing although it was named, cannot be read, or is wrong.
    pub fn load(path: Option<&Utf8Path>) -> Result<Self, ConfigError> {
        let named = path.is_some();
        let path = path.unwrap_or(Utf8Path::new(DEFAULT_PATH));
        match read(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Reads settings from text; `path` is for messages.
    ///
    /// # Errors
    /// The text is no TOML, has unknown settings, or a value out of range.
    pub fn parse(text: &str, path: &Utf8Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        config.check()?;
        Ok(config)
    }

    /// This host's name.
    ///
    /// # Errors
    /// None is set and the machine's own is no RFC 1123 name.
    pub fn host_name(&self) -> Result<HostName, ConfigError> {
        match &self.host {
            Some(host) => Ok(host.clone()),
            None => {
                let machine = rustix::system::uname();
                let name = machine.nodename().to_string_lossy().to_ascii_lowercase();
                name.parse().map_err(ConfigError::MachineName)
            }
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !TICK_S.contains(&self.tick_s) {
            let choose = format!("{} to {} seconds", TICK_S.start(), TICK_S.end());
            return Err(wrong("tick_s", self.tick_s, choose));
        }
        if !ELECTION_MS.contains(&self.etcd.election_ms) {
            let choose = format!("{} to {} milliseconds", ELECTION_MS.start(), ELECTION_MS.end());
            return Err(wrong("etcd.election_ms", self.etcd.election_ms, choose));
        }
        if !QUOTA_MIB.contains(&self.etcd.quota_mib) {
            let choose = format!("{} to {} MiB", QUOTA_MIB.start(), QUOTA_MIB.end());
            return Err(wrong("etcd.quota_mib", self.etcd.quota_mib, choose));
        }
        let paths = [
            ("state_dir", &self.state_dir),
            ("socket", &self.socket),
            ("root", &self.root),
            ("catalogue_dir", &self.catalogue_dir),
            ("libvirt.seed_dir", &self.libvirt.seed_dir),
            ("libvirt.serial_log_dir", &self.libvirt.serial_log_dir),
            ("etcd.program", &self.etcd.program),
            ("etcd.authority", &self.etcd.authority),
            ("etcd.certificate", &self.etcd.certificate),
            ("etcd.key", &self.etcd.key),
        ];
        for (setting, path) in paths {
            if !path.is_absolute() {
                return Err(wrong(setting, path, "an absolute path".to_owned()));
            }
        }
        for path in &self.cluster.fence_agent_dirs {
            if !path.is_absolute() {
                return Err(wrong("cluster.fence_agent_dirs", path, "absolute paths".to_owned()));
            }
        }
        for endpoint in &self.etcd.endpoints {
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                return Err(wrong("etcd.endpoints", endpoint, "URLs such as https://etcd1:2379".to_owned()));
            }
        }
        self.console.check()?;
        self.history.check()?;
        self.oidc.check()?;
        self.traces.check()?;
        if let Err(error) = self.log.level.parse::<tracing_subscriber::filter::Targets>() {
            return Err(wrong("log.level", &self.log.level, format!("a level such as info ({error})")));
        }
        Ok(())
    }
}

fn wrong(setting: &'static str, value: impl fmt::Display, choose: String) -> ConfigError {
    ConfigError::Value { setting, value: value.to_string(), choose }
}

fn read(path: &Utf8Path) -> std::io::Result<String> {
    use std::io::Read as _;

    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Utf8Path::new("test.toml"))
    }

    /// The error with its causes, as main prints it.
    fn message(text: &str) -> String {
        format!("{:#}", anyhow::Error::from(parse(text).unwrap_err()))
    }

    #[test]
    fn the_documented_file_shows_every_default_and_nothing_else() {
        assert_eq!(parse(DEFAULT_FILE).unwrap(), Config::default());
        let is_setting = |line: &&str| {
            let key = line.split_once(" = ").map_or("", |(key, _)| key);
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        let switched_on =
            |line| str::strip_prefix(line, "#").filter(is_setting).unwrap_or(line).to_owned() + "\n";
        let all: String = DEFAULT_FILE.lines().map(switched_on).collect();
        let expected = Config { host: Some("node1".parse().unwrap()), ..Config::default() };
        assert_eq!(parse(&all).unwrap(), expected);
        let keys = all.lines().filter(is_setting).count();
        assert_eq!(keys, 45, "every setting is in the file");
    }

    #[test]
    fn an_empty_file_and_a_missing_one_give_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert!(matches!(
            Config::load(Some(Utf8Path::new("/nonexistent/tranched.toml"))),
            Err(ConfigError::Read { .. })
        ));
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_it_can_be() {
        assert_eq!(message("tick_s = 0"), "the setting tick_s cannot be 0; choose 1 to 300 seconds");
        let short = message("[etcd]\nelection_ms = 1");
        assert_eq!(short, "the setting etcd.election_ms cannot be 1; choose 100 to 50000 milliseconds");
        let large = message("[etcd]\nquota_mib = 9000");
        assert_eq!(large, "the setting etcd.quota_mib cannot be 9000; choose 16 to 8192 MiB");
        let weeks = message("[history]\ndays = 60");
        assert_eq!(weeks, "the setting history.days cannot be 60; choose 0 to 31 days");
        let small = message("[history]\nsize_mib_max = 1");
        assert_eq!(small, "the setting history.size_mib_max cannot be 1; choose 8 to 4096 MiB");
        let nowhere = message("[console]\nlisten = \"7440\"");
        assert!(nowhere.contains("console.listen cannot be 7440; choose an address and a port"), "{nowhere}");
        let half = message("[console]\ncertificate = \"/a\"");
        assert!(half.contains("console.key cannot be empty"), "{half}");
        assert!(message("socket = \"x.sock\"").contains("the setting socket cannot be x.sock"));
        assert!(message("tick = 3").contains("unknown field `tick`"), "{}", message("tick = 3"));
        assert!(
            message("tick_s = 3\ntick_s = 4").contains("duplicate key"),
            "{}",
            message("tick_s = 3\ntick_s = 4")
        );
        assert!(message("host = \"a/b\"").contains("not a valid host name"));
        assert!(message("[log]\nlevel = \"a=b=c\"").contains("log.level"));
    }
}
