//! modprobe on the fake kernel, and the helper that calls it: the real one's code, over this kernel's files and modules.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use tranche_core::step::VFIO_DRIVER;

use super::state::State;
use super::{FakeKernel, gim};
use crate::modules::server::{self, Machine};
use crate::tree::Ran;

/// What goes wrong with loading modules.
#[derive(Debug, Default)]
pub(super) struct ModuleFaults {
    /// The helper is not installed.
    no_helper: bool,
    /// How often loading a module fails from now on.
    refusals: BTreeMap<String, u32>,
    /// Modules that somebody uses.
    in_use: BTreeSet<String>,
}

impl State {
    /// Whether vfio-pci itself is loaded.
    pub(super) fn has_vfio(&self) -> bool {
        !self.machine.modules.iter().any(|module| module == "vfio_pci")
    }
}

impl FakeKernel {
    /// Nobody listens at the helper's socket any more.
    pub fn remove_module_helper(&self) {
        self.with(|state| state.faults.modules.no_helper = true);
    }

    /// The next loads of a module fail, so many of them.
    pub fn refuse_module(&self, module: &str, times: u32) {
        self.with(|state| state.faults.modules.refusals.insert(module.to_owned(), times));
    }

    /// Somebody uses a module, so that it cannot be unloaded.
    pub fn use_module(&self, module: &str) {
        self.with(|state| state.faults.modules.in_use.insert(module.to_owned()));
    }

    /// The text of a file that was put there; none if there is none.
    pub fn file(&self, path: &str) -> Option<String> {
        self.with(|state| state.signs.files.get(path).cloned())
    }

    /// What the helper answers to a line.
    pub(super) fn ask_for_modules(&self, line: &str) -> io::Result<String> {
        if self.with(|state| state.faults.modules.no_helper) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let mut answer = Vec::new();
        server::serve(format!("{line}\n").as_bytes(), &mut answer, self)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn load(&self, module: &str) -> Result<(), String> {
        self.with(|state| {
            if let Some(left) = state.faults.modules.refusals.get_mut(module).filter(|left| **left > 0) {
                *left -= 1;
                return Err(format!("modprobe: ERROR: could not insert '{module}': Invalid argument"));
            }
            if module == gim::DRIVER {
                state.bind_gim();
                state.load_gim_as_configured();
                return Ok(());
            }
            let unloaded = state.machine.modules.iter().position(|there| there == module);
            let driver = module.replace('_', "-");
            match unloaded {
                Some(at) => {
                    state.machine.modules.remove(at);
                    if driver != VFIO_DRIVER {
                        state.machine.vfio_variants.push(driver);
                    }
                    Ok(())
                }
                None if state.drivers().any(|loaded| loaded == driver) => Ok(()),
                None => Err(format!("modprobe: FATAL: Module {module} not found.")),
            }
        })
    }

    fn unload(&self, module: &str) -> Result<(), String> {
        let unloaded = self.with(|state| !state.faults.modules.in_use.contains(module) && state.unload_gim());
        if unloaded { Ok(()) } else { Err(format!("modprobe: FATAL: Module {module} is in use.")) }
    }
}

impl Machine for FakeKernel {
    fn text(&self, path: &str) -> io::Result<String> {
        self.file(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn names(&self, dir: &str) -> Vec<String> {
        self.with(|state| {
            let below = |path: &String| path.strip_prefix(dir)?.strip_prefix('/').map(str::to_owned);
            state.signs.files.keys().filter_map(below).collect()
        })
    }

    fn put(&self, path: &str, text: Option<&str>) -> io::Result<()> {
        self.with(|state| match text {
            Some(text) => drop(state.signs.files.insert(path.to_owned(), text.to_owned())),
            None => drop(state.signs.files.remove(path)),
        });
        Ok(())
    }

    fn modprobe(&self, arguments: &[&str]) -> io::Result<Ran> {
        let done = match arguments {
            ["-r", module] => self.unload(module),
            [module] => self.load(module),
            _ => Err("modprobe: ERROR: missing parameters".to_owned()),
        };
        Ok(Ran { success: done.is_ok(), said: done.err().unwrap_or_default() })
    }
}
