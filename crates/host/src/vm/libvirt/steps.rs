//! The steps about VMs, carried out through libvirt. Each asks first whether it has been carried out already, and
//! compares the UUID before it touches anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::{VmId, VmName};
use tranche_core::spec::{VmHardware, VolumeRef};
use tranche_core::step::{Near, Step, VmDevice};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt_sys as sys;

use super::Shared;
use super::link::Link;
use crate::vm::xml::{self, Definition, Disk, XmlError};
use crate::vm::{kvm, refusal};

pub(super) type Applied = Result<(), Box<Finding>>;

/// What a step does, in one word, for the case that it hangs.
pub(super) fn name(step: &Step) -> &'static str {
    match step {
        Step::DefineVm { .. } => "define",
        Step::PutDevices { .. } => "change the devices",
        Step::StartVm { .. } => "start",
        Step::ShutDownVm { .. } => "shut down",
        Step::KillVm { .. } => "turn off",
        Step::ExpectVm { .. } => "make ready for",
        Step::SendVm { .. } => "send",
        Step::CallOffVm { .. } => "call off",
        Step::ResumeVm { .. } => "resume",
        Step::UndefineVm { .. } => "undefine",
        _ => "do something else",
    }
}

/// The UUID of the VM that a step is about.
fn subject_id(step: &Step) -> Option<VmId> {
    match step {
        Step::DefineVm { id, .. }
        | Step::PutDevices { id, .. }
        | Step::StartVm { id, .. }
        | Step::ShutDownVm { id, .. }
        | Step::KillVm { id, .. }
        | Step::ExpectVm { id, .. }
        | Step::SendVm { id, .. }
        | Step::CallOffVm { id, .. }
        | Step::ResumeVm { id, .. }
        | Step::UndefineVm { id, .. } => Some(*id),
        _ => None,
    }
}

impl Shared {
    /// Carries out a step.
    pub(super) fn apply(self: &Arc<Self>, link: &Arc<Link>, step: &Step) -> Applied {
        let connect = link.connect();
        let result = match step {
            Step::DefineVm { vm, id, hardware } => self.define(connect, vm, *id, hardware),
            Step::PutDevices { vm, id, devices, near } => {
                put_devices(connect, vm, *id, (devices, near.as_ref()))
            }
            Step::StartVm { vm, id } => start(connect, vm, *id),
            Step::ShutDownVm { vm, id } => shut_down(connect, vm, *id),
            Step::KillVm { vm, id } => kill(connect, vm, *id),
            Step::ExpectVm { vm, id, hardware } => self.expect(connect, vm, *id, hardware),
            Step::SendVm { vm, id, number, to, devices, limits } => {
                self.send(link, (vm, *id), (*number, to), (devices, *limits))
            }
            Step::CallOffVm { vm, number, .. } => {
                self.call_off(vm, *number);
                Ok(())
            }
            Step::ResumeVm { vm, id } => resume(connect, vm, *id),
            Step::UndefineVm { vm, id } => self.undefine(connect, vm, *id),
            _ => Err(refusal::not_about_a_vm(step)),
        };
        // The event about it may come after the next observation.
        if let Some(id) = subject_id(step) {
            self.cache.mark(id.0);
        }
        result
    }

    fn define(&self, connect: &Connect, vm: &VmName, id: VmId, hardware: &VmHardware) -> Applied {
        match lookup(connect, vm)? {
            Some(domain) if is(&domain, vm, id)? => {
                return if is_persistent(&domain, vm)? {
                    Ok(())
                } else {
                    Err(Box::new(say::domain_transient(vm)))
                };
            }
            Some(_) => return Err(Box::new(say::domain_exists(vm))),
            None => {}
        }
        let disks = disks(connect, vm, hardware)?;
        let seed = match &hardware.cloud_init {
            Some(user_data) => Some(self.seeds.make(vm, id, user_data).map_err(|error| error.finding(vm))?),
            None => None,
        };
        let definition = Definition {
            vm,
            id,
            hardware,
            disks: &disks,
            acceleration: self.decide_acceleration(connect),
            serial_log_dir: &self.config.serial_log_dir,
            seed: seed.as_deref(),
        };
        let defined = Domain::define_xml(connect, &xml::define(&definition));
        if defined.is_err() && seed.is_some() {
            self.seeds.remove(vm).map_err(|error| error.finding(vm))?;
        }
        defined.map(drop).map_err(refused(vm, "take the definition"))
    }

    /// Makes the disk that a VM brings along by name only, and sees whether its others are here: what another host had made a moment
    /// ago, a pool knows once it is read anew.
    fn expect(&self, connect: &Connect, vm: &VmName, id: VmId, hardware: &VmHardware) -> Applied {
        let pools: BTreeSet<&str> = hardware.disks.iter().map(|disk| disk.pool.as_str()).collect();
        for pool in pools {
            let doing = format!("read pool {pool}");
            let found = StoragePool::lookup_by_name(connect, &c_text(pool)).map_err(refused(vm, &doing))?;
            found.refresh(0).map(drop).map_err(refused(vm, &doing))?;
        }
        disks(connect, vm, hardware)?;
        if let Some(user_data) = &hardware.cloud_init {
            self.seeds.make(vm, id, user_data).map_err(|error| error.finding(vm))?;
        }
        self.sendings.expect(vm, true);
        Ok(())
    }

    fn undefine(&self, connect: &Connect, vm: &VmName, id: VmId) -> Applied {
        let domain = find(connect, vm, id)?;
        if let Some(domain) = &domain
            && is_active(domain, vm)?
        {
            return Err(Box::new(say::vm_running(vm, "removing its definition")));
        }
        // First the disk, then what tells of it: a crash in between leaves nothing that nobody knows of.
        self.seeds.remove(vm).map_err(|error| error.finding(vm))?;
        self.sendings.expect(vm, false);
        let Some(domain) = domain else { return Ok(()) };
        let everything_but_disks = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
        match domain.undefine_flags(everything_but_disks) {
            Err(error) if error.code() == ErrorNumber::NoDomain => Ok(()),
            result => result.map_err(refused(vm, "remove the definition")),
        }
    }

    fn decide_acceleration(&self, connect: &Connect) -> xml::Acceleration {
        let mut decided = self.acceleration.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *decided.get_or_insert_with(|| {
            // libvirt knows where the emulator is, and whether it could use KVM at all.
            let capabilities =
                connect.get_domain_capabilities(None, Some("x86_64"), Some("q35"), Some("kvm"), 0);
            let Some(emulator) = capabilities.ok().and_then(|xml| xml::emulator(&xml).ok()) else {
                return xml::Acceleration::Emulated;
            };
            match kvm::boot_probe_guest(&emulator, kvm::Accelerator::Kvm) {
                Ok(()) => xml::Acceleration::Kvm,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "KVM does not work; VMs are emulated"
                    );
                    xml::Acceleration::Emulated
                }
            }
        })
    }
}

fn put_devices(
    connect: &Connect,
    vm: &VmName,
    id: VmId,
    (devices, near): (&[VmDevice], Option<&Near>),
) -> Applied {
    let domain = find(connect, vm, id)?.ok_or_else(|| Box::new(say::domain_not_found(vm)))?;
    if !is_persistent(&domain, vm)? {
        return Err(Box::new(say::domain_transient(vm)));
    }
    let doing = "change the devices";
    // With its secrets, which a definition without them would lose.
    let stored = || domain.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE);
    let before = stored().map_err(refused(vm, doing))?;
    let after = xml::put_devices(&before, devices, near).map_err(unreadable(vm, doing))?;
    if after == before {
        return Ok(());
    }
    Domain::define_xml(connect, &after).map_err(refused(vm, doing))?;
    let kept = xml::read(&stored().map_err(refused(vm, doing))?).map_err(unreadable(vm, doing))?;
    let ours = kept.devices.iter().filter(|device| device.ours).map(|device| &device.source);
    if ours.eq(devices.iter().map(|device| &device.source)) {
        return Ok(());
    }
    let hint = format!("'virsh dumpxml --inactive {vm}' shows what it kept. Was it edited at the same time?");
    Err(refusal::refused(vm, doing, "the stored definition has other devices than were put there", hint))
}

fn start(connect: &Connect, vm: &VmName, id: VmId) -> Applied {
    let domain = find(connect, vm, id)?.ok_or_else(|| Box::new(say::domain_not_found(vm)))?;
    if is_active(&domain, vm)? {
        return Ok(());
    }
    // A saved state would come back with the devices that it was saved with.
    if domain.has_managed_save(0).unwrap_or(false) {
        let hint = format!("'virsh managedsave-remove {vm}' drops it; the VM then boots afresh.");
        return Err(refusal::refused(
            vm,
            "start the domain",
            "it has a saved state with other devices",
            hint,
        ));
    }
    match domain.create() {
        Err(_) if domain.is_active().unwrap_or(false) => Ok(()),
        result => result.map(drop).map_err(refused(vm, "start the domain")),
    }
}

fn shut_down(connect: &Connect, vm: &VmName, id: VmId) -> Applied {
    let Some(domain) = find(connect, vm, id)? else { return Ok(()) };
    off_already(&domain, domain.shutdown().map(drop)).map_err(refused(vm, "ask the guest to shut down"))
}

fn kill(connect: &Connect, vm: &VmName, id: VmId) -> Applied {
    let Some(domain) = find(connect, vm, id)? else { return Ok(()) };
    off_already(&domain, domain.destroy()).map_err(refused(vm, "turn off the domain"))
}

/// Lets a domain go on that stands still. One that goes on already is as it shall be.
fn resume(connect: &Connect, vm: &VmName, id: VmId) -> Applied {
    let domain = find(connect, vm, id)?.ok_or_else(|| Box::new(say::domain_not_found(vm)))?;
    let (state, _) = domain.get_state().map_err(refused(vm, "tell the state"))?;
    if state != sys::VIR_DOMAIN_PAUSED {
        return Ok(());
    }
    domain.resume().map(drop).map_err(refused(vm, "let the domain go on"))
}

/// A domain that is off cannot be turned off, which is what was wanted.
fn off_already(domain: &Domain, result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.code() == ErrorNumber::NoDomain => Ok(()),
        Err(_) if domain.is_active() == Ok(false) => Ok(()),
        result => result,
    }
}

fn disks(connect: &Connect, vm: &VmName, hardware: &VmHardware) -> Result<Vec<Disk>, Box<Finding>> {
    let disk = |volume: &VolumeRef| {
        let doing = format!("show volume {}/{}", volume.pool, volume.volume);
        let pool =
            StoragePool::lookup_by_name(connect, &c_text(&volume.pool)).map_err(refused(vm, &doing))?;
        let found =
            StorageVol::lookup_by_name(&pool, &c_text(&volume.volume)).map_err(refused(vm, &doing))?;
        let xml = found.get_xml_desc(0).map_err(refused(vm, &doing))?;
        let format = xml::volume_format(&xml).map_err(unreadable(vm, &doing))?;
        Ok(Disk { volume: volume.clone(), format })
    };
    hardware.disks.iter().map(disk).collect()
}

/// A name that fits into a C string. The binding panics at a NUL; no pool or volume has one in its name.
fn c_text(name: &str) -> String {
    name.replace('\0', "\u{fffd}")
}

/// The VM's domain, if there is one. One of the same name with another UUID is somebody else's.
pub(super) fn find(connect: &Connect, vm: &VmName, id: VmId) -> Result<Option<Domain>, Box<Finding>> {
    match lookup(connect, vm)? {
        Some(domain) if !is(&domain, vm, id)? => Err(Box::new(say::domain_identity(vm))),
        found => Ok(found),
    }
}

fn lookup(connect: &Connect, vm: &VmName) -> Result<Option<Domain>, Box<Finding>> {
    match Domain::lookup_by_name(connect, vm.as_str()) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if error.code() == ErrorNumber::NoDomain => Ok(None),
        Err(error) => Err(refused(vm, "show the domain")(error)),
    }
}

fn is(domain: &Domain, vm: &VmName, id: VmId) -> Result<bool, Box<Finding>> {
    domain.get_uuid().map(|uuid| uuid == id.0).map_err(refused(vm, "tell the UUID"))
}

pub(super) fn is_active(domain: &Domain, vm: &VmName) -> Result<bool, Box<Finding>> {
    domain.is_active().map_err(refused(vm, "tell the state"))
}

fn is_persistent(domain: &Domain, vm: &VmName) -> Result<bool, Box<Finding>> {
    domain.is_persistent().map_err(refused(vm, "tell whether there is a definition"))
}

pub(super) fn unreadable(vm: &VmName, doing: &str) -> impl Fn(XmlError) -> Box<Finding> {
    move |error| {
        refusal::refused(vm, doing, &error.to_string(), format!("'virsh dumpxml --inactive {vm}' shows it."))
    }
}

pub(super) fn refused(vm: &VmName, doing: &str) -> impl Fn(Error) -> Box<Finding> {
    move |error| refusal::refused(vm, doing, error.message(), hint(vm, &error))
}

fn hint(vm: &VmName, error: &Error) -> String {
    match error.code() {
        ErrorNumber::NoStoragePool => {
            "'virsh pool-list --all' shows the pools; a pool must be started.".to_owned()
        }
        ErrorNumber::NoStorageVolume => "'virsh vol-list POOL' shows the volumes of a pool.".to_owned(),
        ErrorNumber::NoNetwork => {
            "'virsh net-list --all' shows the networks; a network must be started.".to_owned()
        }
        // libvirt's words are those of virFirmware… (src/qemu/qemu_firmware.c).
        _ if error.message().contains("firmware") => {
            "Install the package 'ovmf', or use '--firmware bios'.".to_owned()
        }
        _ => refusal::logs_hint(vm),
    }
}
