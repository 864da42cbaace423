//! Trees as if captured from a machine, written in a compact text:
//! `path = value` for an attribute (`\n` for line breaks), `path -> target` for a link, `path/` for a directory.

use std::os::unix::fs::symlink;

use camino::{Utf8Path, Utf8PathBuf};
use tempfile::TempDir;

/// A captured tree that is removed when dropped.
pub(crate) struct Captured {
    dir: TempDir,
}

impl Captured {
    pub(crate) fn new(text: &str) -> Self {
        let captured = Self { dir: tempfile::tempdir().expect("a directory") };
        captured.add(text);
        captured
    }

    pub(crate) fn root(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).expect("a path in UTF-8")
    }

    pub(crate) fn add(&self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some((path, target)) = line.split_once(" -> ") {
                symlink(target, self.make_room(path)).expect("a new link");
            } else if let Some((path, value)) = line.split_once(" =") {
                let value = value.strip_prefix(' ').unwrap_or(value).replace("\\n", "\n");
                std::fs::write(self.make_room(path), format!("{value}\n")).expect("a new file");
            } else {
                std::fs::create_dir_all(self.root().join(line)).expect("a new directory");
            }
        }
    }

    fn make_room(&self, path: &str) -> Utf8PathBuf {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a new directory");
        path
    }
}

/// A PCI function with its links, as the kernel lays it out.
pub(crate) fn function(address: &str, ids: [&str; 4], class: &str, group: u32, more: &str) -> String {
    let dir = format!("sys/devices/pci0000:00/{address}");
    let [vendor, device, subvendor, subdevice] = ids;
    let own: String = more.lines().map(|line| format!("{dir}/{}\n", line.trim())).collect();
    format!(
        "{dir}/vendor = 0x{vendor}\n{dir}/device = 0x{device}\n{dir}/class = 0x{class}\n\
         {dir}/subsystem_vendor = 0x{subvendor}\n{dir}/subsystem_device = 0x{subdevice}\n\
         {dir}/iommu_group -> ../../../kernel/iommu_groups/{group}\n\
         sys/kernel/iommu_groups/{group}/devices/{address} -> ../../../../devices/pci0000:00/{address}\n\
         sys/bus/pci/devices/{address} -> ../../../devices/pci0000:00/{address}\n{own}"
    )
}

/// A host with an NVIDIA A2 and its 16 virtual functions, the first of them a 4Q; formats and figures as on a real one.
pub(crate) fn a2_host() -> Captured {
    let pf = "0000:08:00.0";
    let mut more = "\
        driver -> ../../../bus/pci/drivers/nvidia\n\
        numa_node = 0\n\
        reset_method = flr bus\n\
        sriov_totalvfs = 16\nsriov_numvfs = 16\nsriov_offset = 4\nsriov_stride = 1\nsriov_vf_device = 25b6\n\
        sriov_drivers_autoprobe = 1\nsriov_vf_total_msix = 0\n\
        driver_override = (null)\n\
        aer_dev_correctable = RxErr 3\\nBadTLP 0\\nBadDLLP 0\\nTOTAL_ERR_COR 3\n\
        aer_dev_fatal = Undefined 0\\nDLP 0\\nTOTAL_ERR_FATAL 0\n\
        aer_dev_nonfatal = Undefined 0\\nDLP 0\\nTOTAL_ERR_NONFATAL 0\n\
        resource = 0x0000000093000000 0x0000000093ffffff 0x0000000000040200\\n0x0000039000000000 0x00000393ffffffff \
        0x000000000014220c\\n0x0000000000000000 0x0000000000000000 0x0000000000000000\\n0x0000039c20000000 \
        0x0000039c21ffffff 0x000000000014220c\n"
        .to_owned();
    let vfs: Vec<String> = (4..20).map(|n| format!("0000:08:{:02x}.{}", n / 8, n % 8)).collect();
    for (index, vf) in vfs.iter().enumerate() {
        more.push_str(&format!("virtfn{index} -> ../{vf}\n"));
    }
    let captured = Captured::new(&function(pf, ["10de", "25b6", "10de", "157e"], "030200", 38, &more));
    for (index, vf) in (90..).zip(&vfs) {
        let (current, creatable) = match index {
            90 => (746, "ID    : vGPU Name"),
            _ => {
                (0, "ID    : vGPU Name\\n746   : NVIDIA A2-4Q\\n751   : NVIDIA A2-4A\\n754   : NVIDIA A2-4C")
            }
        };
        let more = format!(
            "physfn -> ../{pf}\ndriver -> ../../../bus/pci/drivers/nvidia\nnuma_node = 0\n\
             nvidia/current_vgpu_type = {current}\nnvidia/creatable_vgpu_types = {creatable}\n"
        );
        captured.add(&function(vf, ["10de", "25b6", "10de", "0000"], "030200", index, &more));
    }
    captured.add(
        "sys/class/iommu/dmar1/\n\
         sys/devices/system/cpu/online = 0-5,12-17\n\
         sys/devices/system/node/online = 0-2\n\
         sys/devices/system/node/node1/cpulist = 3-5,15-17\n\
         sys/devices/system/node/node1/meminfo = Node 1 MemTotal:       65820612 kB\\nNode 1 MemFree: 1 kB\n\
         sys/devices/system/node/node0/cpulist = 0-2,12-14\n\
         sys/devices/system/node/node0/meminfo = Node 0 MemTotal:       65820612 kB\\nNode 0 MemFree: 1 kB\n\
         sys/devices/system/node/node2/cpulist = \n\
         sys/devices/system/node/node2/meminfo = Node 2 MemTotal:       65820612 kB\n\
         proc/sys/kernel/hostname = GPU-Node-7\n\
         proc/sys/kernel/osrelease = 6.8.0-59-generic\n\
         proc/sys/kernel/random/boot_id = 0f0f2a5e-6d8c-4b8e-9a58-1f6c0c5f5a11\n\
         proc/cpuinfo = processor\t: 0\\nmodel name\t: Intel(R) Xeon(R) D-1746TER CPU @ 2.00GHz\n\
         proc/meminfo = MemTotal:       131641224 kB\\nMemFree: 1 kB\n",
    );
    captured
}
