//! The node's machine: QEMU's command line, and the process that runs it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::Error;
use crate::accelerator::Accelerator;
use crate::command::not_started;
use crate::image::NodeImage;
use crate::node::{FENCE_ADDRESS, Lifetime, NodeOptions, SHARE_TAG};
use crate::ssh::quote;

pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// Its name in the process table, which is cut to 15 bytes.
pub(crate) const PROCESS_NAME: &str = "(qemu-system-x86)";

/// The network card by which ssh comes in; the node's network file knows it by this address.
const SSH_MAC: &str = "52:54:00:6c:61:62";

/// Ends QEMU and removes the run directory when the lab's end of the pipe closes, however the lab ended. When QEMU
/// ends first, so does this. Arguments: the run directory, QEMU's command line.
const KEEPER: &str = r#"
directory=$1; shift
exec 3<&0
"$@" 3<&- & qemu=$!
{ cat <&3 >/dev/null; kill -KILL "$qemu"; rm -rf -- "$directory"; } &
keeper=$!
exec 3<&-
wait "$qemu"; status=$?
kill "$keeper" 2>/dev/null
exit "$status"
"#;

/// Starts QEMU in a process group of its own, so that a Ctrl-C at the terminal reaches the lab alone.
pub(crate) fn spawn(
    options: &NodeOptions,
    image: &NodeImage,
    accelerator: Accelerator,
    identity: &Identity<'_>,
) -> Result<Child, Error> {
    let mut command = match options.lifetime {
        Lifetime::Detached => Command::new(QEMU),
        Lifetime::Caller => {
            let mut command = Command::new("sh");
            command.args(["-c", KEEPER, "keeper"]).arg(options.directory()).arg(QEMU);
            command
        }
    };
    let log_path = options.file("qemu.log");
    let log = File::create(&log_path).map_err(Error::io("write", &log_path))?;
    command
        .args(arguments(options, image, accelerator, identity))
        .process_group(0)
        .stdin(if options.lifetime == Lifetime::Caller { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().map_err(|source| not_started(&command, source))
}

/// What makes a node itself, and the same one when it is started again.
#[derive(Debug)]
pub(crate) struct Identity<'a> {
    /// Different for each node: libvirt refuses to migrate between equal host UUIDs.
    pub(crate) uuid: &'a str,
    /// The line that lets the lab in, for `authorized_keys`.
    pub(crate) ssh_public_key: &'a str,
}

fn arguments(
    options: &NodeOptions,
    image: &NodeImage,
    accelerator: Accelerator,
    identity: &Identity<'_>,
) -> Vec<String> {
    let path = |name: &str| escape_commas(&options.file(name).to_string_lossy());
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    add("-name", options.name.clone());
    add("-machine", format!("q35,accel={}", accelerator.machine()));
    add("-cpu", accelerator.cpu().into());
    add("-smp", options.vcpus.unwrap_or(accelerator.vcpus()).to_string());
    add("-m", options.memory_mib.to_string());
    add("-uuid", identity.uuid.to_owned());
    add("-display", "none".into());
    add("-pidfile", options.file("qemu.pid").to_string_lossy().into_owned());
    add("-qmp", format!("unix:{},server=on,wait=off", path("qmp.sock")));
    add("-chardev", format!("file,id=serial,path={},append=on", path("serial.log")));
    add("-serial", "chardev:serial".into());
    add("-kernel", image.kernel().to_string_lossy().into_owned());
    add("-initrd", image.initrd().to_string_lossy().into_owned());
    add("-append", kernel_command_line(options));
    // systemd writes it to root's authorized_keys at boot, so no image carries a key.
    add(
        "-smbios",
        format!("type=11,value=io.systemd.credential:ssh.authorized_keys.root={}", identity.ssh_public_key),
    );
    add("-drive", format!("file={},if=virtio,format=qcow2,cache=unsafe", path("disk.qcow2")));
    add("-device", "intel-iommu,intremap=on".into());
    add("-device", "virtio-rng-pci".into());
    add("-netdev", format!("user,id=lab,restrict=on,hostfwd=tcp:127.0.0.1:0-:22{}", fence_door(options)));
    add("-device", format!("virtio-net-pci,netdev=lab,mac={SSH_MAC},romfile="));
    for adapter in 1..=options.adapters {
        add("-device", format!("pcie-root-port,id=adapter{adapter},slot={adapter}"));
        add("-device", format!("igb,bus=adapter{adapter}"));
    }
    if let Some(port) = &options.port {
        let at = |path: &std::path::Path| escape_commas(&path.to_string_lossy());
        add(
            "-netdev",
            format!(
                "dgram,id=cluster,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                at(&port.node),
                at(&port.switch)
            ),
        );
        add("-device", format!("virtio-net-pci,netdev=cluster,mac={},romfile=", port.mac()));
    }
    if let Some(share) = &options.share {
        // "none": whoever runs the lab owns the files, whatever libvirt in a node wants them to belong to.
        let path = escape_commas(&share.to_string_lossy());
        add("-fsdev", format!("local,id=share,path={path},security_model=none"));
        add("-device", format!("virtio-9p-pci,fsdev=share,mount_tag={SHARE_TAG}"));
    }
    if options.watchdog {
        add("-device", "i6300esb".into());
        add("-action", "watchdog=reset".into());
    }
    arguments.extend(["-nodefaults".to_owned(), "-no-user-config".to_owned()]);
    arguments
}

/// What a node may ask this machine for, if anything: to cut a node's power. Each connection starts the program anew.
fn fence_door(options: &NodeOptions) -> String {
    options.fence.as_ref().map_or_else(String::new, |program| {
        let [program, run_dir] = [program, &options.run_dir].map(|path| quote(&path.to_string_lossy()));
        let command = escape_commas(&format!("{program} fence --run-dir {run_dir} --with-status"));
        format!(",guestfwd=tcp:{FENCE_ADDRESS}-cmd:{command}")
    })
}

fn kernel_command_line(options: &NodeOptions) -> String {
    let (name, vgpu) = (&options.name, u8::from(options.vgpu));
    // Else it is left to the node: what stands here outweighs its own files.
    let moves = if options.vgpu_moves { " nvidia.migration=1" } else { "" };
    format!(
        "root=/dev/vda rw console=ttyS0 quiet intel_iommu=on iommu=pt mitigations=off systemd.ssh_auto=no \
         systemd.hostname={name} tranche_lab.vgpu={vgpu}{moves}"
    )
}

/// QEMU ends an option's value at a comma; a doubled one stands for itself.
fn escape_commas(path: &str) -> String {
    path.replace(',', ",,")
}
