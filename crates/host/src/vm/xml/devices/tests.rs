//! What putting devices into a definition does to it, and what it leaves alone.

use expect_test::expect;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::vm::xml::read;

fn pci(address: &str) -> VmDevice {
    VmDevice { source: DeviceSource::Pci { address: address.parse().unwrap() }, mmio_mib: 64 }
}

fn mdev(number: u128) -> VmDevice {
    VmDevice { source: DeviceSource::Mdev { uuid: Uuid::from_u128(number) }, mmio_mib: 0 }
}

/// With nothing said of what is near.
fn put_devices(xml: &str, devices: &[VmDevice]) -> Result<String, XmlError> {
    super::put_devices(xml, devices, None)
}

fn domain(os: &str, devices: &str) -> String {
    format!(
        "<!-- mine -->\n<domain type=\"kvm\">\n  <name>desk</name>\n  <uuid>{}</uuid>\n  <memory>65536</memory>\n  {os}\n  {devices}\n</domain>\n",
        Uuid::from_u128(9)
    )
}

const PLAIN: &str = "<devices>\n    <emulator>/usr/bin/qemu</emulator>\n  </devices>";
const UEFI: &str = "<os firmware='efi'><type>hvm</type></os>";

fn sources(xml: &str) -> Vec<(DeviceSource, bool)> {
    read(xml).unwrap().devices.into_iter().map(|device| (device.source, device.ours)).collect()
}

#[test]
fn a_function_and_a_mediated_device_go_behind_the_users_devices() {
    let xml = put_devices(&domain("", PLAIN), &[pci("0000:3d:00.4"), mdev(7)]).unwrap();
    expect![[r#"
        <!-- mine -->
        <domain type="kvm">
          <name>desk</name>
          <uuid>00000000-0000-0000-0000-000000000009</uuid>
          <memory>65536</memory>
          
          <devices>
            <emulator>/usr/bin/qemu</emulator>
            <hostdev mode='subsystem' type='pci' managed='no'>
              <source>
                <address domain='0x0000' bus='0x3d' slot='0x00' function='0x4'/>
              </source>
              <alias name='ua-tranche-0'/>
            </hostdev>
            <hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>
              <source>
                <address uuid='00000000-0000-0000-0000-000000000007'/>
              </source>
              <alias name='ua-tranche-1'/>
            </hostdev>
          </devices>
        </domain>
    "#]]
    .assert_eq(&xml);
}

#[test]
fn devices_that_are_there_already_change_nothing() {
    let once = put_devices(&domain("", PLAIN), &[pci("0000:3d:00.4")]).unwrap();
    // libvirt adds an address in the guest, which must stay.
    let settled = once.replace("</source>", "</source><address type='pci' bus='0x06'/>");
    assert_eq!(put_devices(&settled, &[pci("0000:3d:00.4")]).unwrap(), settled);
}

/// A domain that Tranche made, as libvirt keeps it.
const MADE: &str = "\
<domain type='kvm'>
  <name>desk</name>
  <uuid>00000000-0000-0000-0000-000000000009</uuid>
  <metadata>
    <tranche:vm xmlns:tranche='https://github.com/tranche-project/tranche/domain/1'/>
  </metadata>
  <memory unit='KiB'>2097152</memory>
  <vcpu placement='static'>2</vcpu>
  <devices>
    <emulator>/usr/bin/qemu</emulator>
  </devices>
</domain>
";

#[test]
fn a_guest_runs_beside_its_gpu_while_it_has_one() {
    let near = Near { node: 1, cpus: "8-15,24-31".to_owned() };
    let with = super::put_devices(MADE, &[mdev(7)], Some(&near)).unwrap();
    expect![[r#"
        <domain type='kvm'>
          <name>desk</name>
          <uuid>00000000-0000-0000-0000-000000000009</uuid>
          <metadata>
            <tranche:vm xmlns:tranche='https://github.com/tranche-project/tranche/domain/1'/>
            <near:node xmlns:near='https://github.com/tranche-project/tranche/near/1' id='1' cpus='8-15,24-31'/>
          </metadata>
          <memory unit='KiB'>2097152</memory>
          <vcpu cpuset='8-15,24-31' placement='static'>2</vcpu>
          <numatune>
            <memory mode='preferred' nodeset='1'/>
          </numatune>
          <devices>
            <emulator>/usr/bin/qemu</emulator>
            <hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>
              <source>
                <address uuid='00000000-0000-0000-0000-000000000007'/>
              </source>
              <alias name='ua-tranche-0'/>
            </hostdev>
          </devices>
        </domain>
    "#]]
    .assert_eq(&with);
    assert_eq!(put_devices(&with, &[]).unwrap(), MADE);
    let elsewhere = Near { node: 0, cpus: "0-7".to_owned() };
    let moved = super::put_devices(&with, &[mdev(8)], Some(&elsewhere)).unwrap();
    assert!(
        moved.contains("<vcpu cpuset='0-7' placement='static'>") && moved.contains("nodeset='0'"),
        "{moved}"
    );
    assert_eq!(put_devices(&moved, &[]).unwrap(), MADE);
}

#[test]
fn what_a_user_chose_of_processors_and_memory_stays() {
    let near = Near { node: 1, cpus: "8-15".to_owned() };
    for own in [
        MADE.replace("placement='static'", "placement='static' cpuset='3'"),
        MADE.replace("placement='static'", "placement='auto'"),
        MADE.replace(
            "  <devices>",
            "  <numatune><memory mode='strict' nodeset='0'/></numatune>\n  <devices>",
        ),
        MADE.replace("  <devices>", "  <cputune><vcpupin vcpu='0' cpuset='1'/></cputune>\n  <devices>"),
    ] {
        let with = super::put_devices(&own, &[mdev(7)], Some(&near)).unwrap();
        assert_eq!(with, put_devices(&own, &[mdev(7)]).unwrap());
        assert_eq!(put_devices(&with, &[]).unwrap(), own);
    }
    let with = super::put_devices(MADE, &[mdev(7)], Some(&near)).unwrap();
    let edited = with.replace("mode='preferred'", "mode='strict'").replace("cpuset='8-15'", "cpuset='9'");
    let without = put_devices(&edited, &[]).unwrap();
    assert!(
        without.contains("mode='strict'") && without.contains("cpuset='9'") && !without.contains("near:node")
    );
}

#[test]
fn other_devices_of_ours_are_replaced_and_the_users_own_stay() {
    let users =
        "<devices><hostdev type='pci'><source><address bus='0x01' slot='0x00'/></source></hostdev></devices>";
    let first = put_devices(&domain("", users), &[pci("0000:3d:00.4"), pci("0000:3d:00.5")]).unwrap();
    let second = put_devices(&first, &[mdev(3)]).unwrap();
    let users_own = (pci("0000:01:00.0").source, false);
    assert_eq!(sources(&second), [users_own, (mdev(3).source, true)]);
    assert_eq!(put_devices(&second, &[]).unwrap(), domain("", users));
}

#[test]
fn a_users_alias_that_only_looks_like_ours_is_not_ours() {
    let users = "<devices><disk><alias name='ua-tranche-0'/></disk><hostdev><alias name='ua-mine'/></hostdev></devices>";
    let xml = domain("", users);
    assert_eq!(put_devices(&xml, &[]).unwrap(), xml);
}

#[test]
fn a_large_gpu_gets_a_window_in_ovmf_unless_the_guest_sees_the_hosts_address_width() {
    let large = [VmDevice { mmio_mib: 48 * 1024, ..pci("0000:3d:00.4") }];
    let window = |os: &str, devices: &[VmDevice]| {
        let xml = put_devices(&domain(os, PLAIN), devices).unwrap();
        assert_eq!(put_devices(&xml, &[]).unwrap(), domain(os, PLAIN));
        xml.lines().find_map(|line| line.trim().strip_prefix("<qemu:arg value='id=").map(str::to_owned))
    };
    let given = Some("ua-tranche-mmio64,name=opt/ovmf/X-PciMmio64Mb,string=131072'/>".to_owned());
    assert_eq!(window(UEFI, &large), given);
    assert_eq!(window("<os><loader type='pflash'>/x</loader></os>", &large), given);
    assert_eq!(window(&format!("{UEFI}<cpu mode='custom'/>"), &large), given);
    assert_eq!(window(UEFI, &[pci("0000:3d:00.4")]), None);
    assert_eq!(window("<os><type>hvm</type></os>", &large), None);
    assert_eq!(window(&format!("{UEFI}<cpu mode='host-passthrough'/>"), &large), None);
    assert_eq!(
        window(&format!("{UEFI}<cpu mode='custom'><maxphysaddr mode='passthrough'/></cpu>"), &large),
        None
    );
}

#[test]
fn the_users_own_arguments_of_qemu_stay() {
    let large = [VmDevice { mmio_mib: 48 * 1024, ..pci("0000:3d:00.4") }];
    let users = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
                 <qemu:arg value='-s'/></qemu:commandline>";
    let before = domain(&format!("{UEFI}{users}"), PLAIN);
    let after = put_devices(&before, &large).unwrap();
    assert_eq!(put_devices(&after, &[]).unwrap(), before);
    // libvirt writes all arguments into one element.
    let argument = "<qemu:arg value='-fw_cfg'/><qemu:arg value='id=ua-tranche-mmio64,name=opt/ovmf/X-PciMmio64Mb,string=1'/>";
    let merged = before.replace("<qemu:arg value='-s'/>", &format!("<qemu:arg value='-s'/>{argument}"));
    assert_eq!(put_devices(&put_devices(&merged, &[mdev(1)]).unwrap(), &[]).unwrap(), before);
    // A window of the user's own choice is left alone.
    let chosen = before.replace("-s", "name=opt/ovmf/X-PciMmio64Mb,string=1");
    assert!(!put_devices(&chosen, &large).unwrap().contains("ua-tranche-mmio64"));
}

#[test]
fn a_domain_without_devices_is_refused_and_an_empty_list_is_filled() {
    assert!(matches!(put_devices(&domain("", ""), &[mdev(1)]), Err(XmlError::Missing("devices"))));
    let xml = put_devices(&domain("", "<devices />"), &[mdev(1)]).unwrap();
    assert_eq!(sources(&xml), [(mdev(1).source, true)]);
}

fn any_device() -> impl Strategy<Value = VmDevice> {
    let function = (0_u32..0x2_0000, any::<u8>(), 0_u8..32, 0_u8..8, 0_u64..1 << 20);
    prop_oneof![
        any::<u128>().prop_map(mdev),
        function.prop_map(|(domain, bus, device, function, mmio_mib)| VmDevice {
            source: DeviceSource::Pci {
                address: tranche_core::name::PciAddress { domain, bus, device, function }
            },
            mmio_mib,
        }),
    ]
}

/// What users write into a domain: any order, any spacing, comments that look like ends, devices of their own.
fn any_domain() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<disk type='file'><source file='/a&amp;b'/></disk>".to_owned()),
        Just("<hostdev type='pci'><source><address bus='0x01' slot='0x02'/></source></hostdev>".to_owned()),
        Just("<hostdev type='mdev'><source/><alias name='ua-mine'/></hostdev>".to_owned()),
        Just("<!-- </devices> <hostdev/> -->".to_owned()),
        Just("<![CDATA[</devices>]]>".to_owned()),
        "[ \t\r\n]{0,5}",
    ];
    let rest = prop_oneof![
        Just(UEFI),
        Just("<cpu mode='host-passthrough'/>"),
        Just("<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'/>"),
        Just("<description>é &lt;/domain&gt;</description>"),
        Just("\n"),
    ];
    let pieces = proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat());
    let rests = proptest::collection::vec(rest, 0..4).prop_map(|rests| rests.concat());
    (rests.clone(), pieces, rests)
        .prop_map(|(before, pieces, after)| domain(&before, &format!("<devices>{pieces}</devices>{after}")))
}

proptest! {
    #[test]
    fn what_was_put_and_taken_away_leaves_the_users_bytes(
        xml in any_domain(),
        first in proptest::collection::vec(any_device(), 0..4),
        second in proptest::collection::vec(any_device(), 0..4),
    ) {
        let with_first = put_devices(&xml, &first).unwrap();
        let with_second = put_devices(&with_first, &second).unwrap();
        let put: Vec<DeviceSource> = sources(&with_second).into_iter().filter(|(_, ours)| *ours).map(|(source, _)| source).collect();
        prop_assert_eq!(put, second.iter().map(|device| device.source.clone()).collect::<Vec<_>>());
        prop_assert_eq!(&put_devices(&with_second, &second).unwrap(), &with_second);
        prop_assert_eq!(put_devices(&with_second, &[]).unwrap(), xml);
    }
}
