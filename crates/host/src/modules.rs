//! Kernel modules: loaded by a helper of its own, because the daemon may not.
//!
//! ```text
//! tranched ── "load xe_vfio_pci" ──▶ /run/tranche-modules.sock ──▶ tranche-modules ──▶ modprobe
//!          ◀── "ok" / "error CODE text" ──                         one line, one deed, and it ends
//! ```
//!
//! Whoever may load modules owns the kernel, so the right to it stays out of the daemon, which reads what VMs, libvirt and
//! people tell it. The helper ([`server`]) is started by systemd for one request and knows two of them, with arguments
//! from closed lists. Where it is missing, the daemon names the commands for a person instead.
//!
//! Deliberately absent: unloading anything but to load it again, and parameters other than the number of virtual functions.

pub mod server;

use std::io;

use tranche_core::finding::{Code, Finding};

use crate::calls::{CallError, GpuCalls};
use crate::discover::function;
use crate::{gim, report};

/// Where the helper listens.
pub const SOCKET: &str = "run/tranche-modules.sock";
/// The longest request, in bytes.
pub(crate) const REQUEST_LEN_MAX: usize = 128;
/// The longest answer, in bytes.
pub(crate) const ANSWER_LEN_MAX: usize = 2_048;

/// Loads the module of a driver that hands functions to VMs, if it is one that the helper knows and it is not loaded yet.
///
/// Failing is no error: whether the driver is there is seen by what it is wanted for.
pub(crate) fn load_vfio(calls: &GpuCalls<'_>, driver: &str) {
    let module = driver.replace('-', "_");
    let is_loaded = || {
        calls
            .tree()
            .list(function::PCI_DRIVERS)
            .is_ok_and(|all| all.iter().any(|one| one.replace('-', "_") == module))
    };
    if !server::LOADABLE.contains(&module.as_str()) || is_loaded() {
        return;
    }
    match calls.converse(SOCKET, &format!("load {module}")).map(|answer| parse(&answer)) {
        Ok(Ok(())) => tracing::info!(module, "loaded"),
        Ok(Err(refusal)) => tracing::info!(module, refusal.text, "not loaded"),
        Err(error) => tracing::debug!(module, %error, "nobody loads modules"),
    }
}

/// Has a driver loaded anew with another number of virtual functions for each of its GPUs.
///
/// # Errors
/// When there is no helper, with the commands; what the helper says else.
pub(crate) fn reload(calls: &GpuCalls<'_>, driver: &str, count: u16) -> Result<(), Box<Finding>> {
    let gpu = calls.gpu();
    let answer = match calls.converse(SOCKET, &format!("count {driver} {count}")) {
        Ok(answer) => answer,
        Err(error @ CallError::Failed { .. })
            if matches!(error.errno(), Some(libc::ENOENT | libc::ECONNREFUSED | libc::EACCES)) =>
        {
            let message = format!(
                "Driver {driver} of GPU {gpu} has to be loaded anew, and nobody here may do that: {}",
                report::call_sentence(&error)
            );
            let hint = format!(
                "Enable the helper ('systemctl enable --now tranche-modules.socket'), or {}.",
                gim::commands(count)
            );
            return Err(report::error(gpu, Code::ReloadFailed, message, hint));
        }
        Err(error) => return Err(report::call_failed(gpu, &error)),
    };
    parse(&answer).map_err(|refusal| {
        let message = format!("Driver {driver} of GPU {gpu} was not loaded with {count}: {}", refusal.text);
        report::error(gpu, Code::ReloadFailed, message, refusal.hint())
    })
}

/// What the helper refused, or failed at.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: String,
    text: String,
}

impl Refusal {
    fn hint(&self) -> &'static str {
        match self.code.as_str() {
            server::FOREIGN_FILE | server::CONTRADICTED => {
                "Take the parameter out of that file (or the file away), so that one place only says how many; then ask again."
            }
            server::UNLOAD_FAILED => {
                "'lsof' and 'lsmod' tell who uses the driver; stop that, then ask again."
            }
            _ => {
                "The kernel log ('journalctl -k') tells why; the driver's release notes say which numbers the model takes."
            }
        }
    }
}

/// Reads an answer: `ok`, or `error CODE text`. Anything else is a failure, too.
fn parse(answer: &str) -> Result<(), Refusal> {
    let answer = answer.trim_end();
    if answer == "ok" {
        return Ok(());
    }
    let told = answer.strip_prefix("error ").and_then(|told| told.split_once(' '));
    let (code, text) = told.unwrap_or(("unclear", "the helper ended without an answer."));
    Err(Refusal { code: code.to_owned(), text: text.to_owned() })
}

/// Sends one line and takes one back.
///
/// # Errors
/// The socket's.
pub(crate) fn exchange(mut stream: impl io::Read + io::Write, line: &str) -> io::Result<String> {
    stream.write_all(format!("{line}\n").as_bytes())?;
    server::line(&mut stream, ANSWER_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_ok_or_an_error_with_its_code_and_nothing_else() {
        assert_eq!(parse("ok\n"), Ok(()));
        let refusal = parse("error contradicted /etc/gim_config says vf_num, too.\n").unwrap_err();
        assert_eq!(
            (refusal.code.as_str(), refusal.text.as_str()),
            ("contradicted", "/etc/gim_config says vf_num, too.")
        );
        for junk in ["", "okay", "error", "error ", "OK"] {
            assert_eq!(parse(junk).unwrap_err().code, "unclear", "{junk:?}");
        }
    }
}
